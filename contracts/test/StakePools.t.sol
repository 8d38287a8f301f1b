// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Pool, StakePools} from "../src/libraries/StakePools.sol";

/// @notice The arithmetic by itself. `check_` functions are proofs for halmos, which takes their arguments as any value;
/// the tests beside them try some.
contract StakePoolsTest is Base {
    using StakePools for Pool;

    Pool private pool;

    function test_TheLastGenerationDoesNotEnd() public {
        (pool.delegated, pool.shares, pool.locked) = (1 ether, 1 ether, 1 ether);
        pool.generation = type(uint16).max - 1;
        vm.assertEq(pool.lose(0.5 ether), 0.5 ether);
        vm.assertEq(pool.generation, type(uint16).max - 1);
        vm.assertEq(pool.lose(0.5 ether), 0.5 ether);
        vm.assertEq(pool.generation, type(uint16).max);
        (pool.delegated, pool.shares, pool.locked) = (1 ether, 1 ether, 1 ether);
        vm.assertEq(pool.lose(1 ether), 1 ether);
        vm.assertEq(pool.generation, type(uint16).max);
        vm.assertEq(pool.shares, 1 ether);
        vm.assertEq(pool.total() + pool.locked, 0);
    }

    function test_DivisionsRoundDown() public pure {
        vm.assertEq(StakePools.toAssets(1, 1, 2), 0);
        vm.assertEq(StakePools.toAssets(2, 2, 3), 1);
        vm.assertEq(StakePools.toAssets(3, 2, 3), 2);
        vm.assertEq(StakePools.toAssets(0, 0, 0), 0);
        vm.assertEq(StakePools.toShares(7, 0, 0), 7);
        vm.assertEq(StakePools.toShares(1, 1, 2), 1);
        vm.assertEq(StakePools.toShares(2, 1, 2), 3);
    }

    /// @notice Whoever delegates and leaves gets no more than it put in, and no share is worth more than a wei.
    function testFuzz_EnterAndLeaveGainsNothing(uint88 amount, uint88 assets, uint96 seed) public pure {
        uint256 shares = bound(seed, assets, uint256(assets) << 12);
        uint256 minted = StakePools.toShares(amount, assets, shares);
        vm.assertLe(amount, minted, "a share is worth a wei at most");
        uint256 worth = StakePools.toAssets(minted, uint256(assets) + amount, shares + minted);
        vm.assertLe(worth, amount, "no gain");
        vm.assertLe(amount, worth + 2, "and no loss but rounding");
    }

    function testFuzz_Loss(uint96 own, uint96 thawing, uint96 delegated, uint104 shares, uint96 amount) public {
        _lose(own >> 4, thawing >> 4, delegated >> 4, shares, amount);
    }

    function testFuzz_Newcomers(uint96 own, uint96 before, uint96 amount, uint32 epoch) public {
        check_NewcomersEarnFromTheNextEpoch(own >> 4, before >> 4, amount >> 4, epoch);
    }

    /// @notice A loss takes what was asked for or all there is, in order, and lowers the stake and the locks by that.
    function check_LossIsWhatIsThere(uint96 own, uint96 delegated, uint104 shares, uint256 amount) public {
        _lose(own, 0, delegated, shares, amount);
    }

    /// @notice Own stake that comes in, once or twice, earns nothing in its epoch, and all from the next one on.
    function check_NewcomersEarnFromTheNextEpoch(uint96 own, uint96 first, uint96 second, uint32 epoch) public {
        if (own >= 1 << 92 || first >= 1 << 92 || second >= 1 << 92 || epoch == type(uint32).max) return;
        if (epoch == 0) return;
        pool.own = own;
        pool.addOwn(first, epoch);
        pool.addOwn(second, epoch);
        (,, uint256 earning,) = pool.earningAt(epoch);
        assert(earning == own);
        (,, earning,) = pool.earningAt(epoch + 1);
        assert(earning == uint256(own) + first + second);
    }

    function _lose(uint96 own, uint96 thawing, uint96 delegated, uint104 shares, uint256 amount) private {
        if (shares < delegated || shares < thawing) return;
        if (own >= 1 << 92 || delegated >= 1 << 92 || thawing >= 1 << 92) return;
        (pool.own, pool.delegated, pool.shares) = (own, delegated, shares);
        if (thawing != 0) (pool.ownThawing.assets, pool.ownThawing.shares) = (thawing, shares);
        uint256 total = pool.total();
        pool.locked = uint96(total);
        uint256 taken = pool.lose(amount);
        assert(taken == (amount < total ? amount : total));
        assert(pool.total() == total - taken);
        assert(pool.locked == total - taken);
        assert(taken > own || pool.ownThawing.assets == thawing);
        assert(taken > uint256(own) + thawing || pool.delegated == delegated);
    }
}
