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
        (pool.delegated, pool.shares, pool.delegatedLocked) = (1 ether, 1 ether, 1 ether);
        pool.generation = type(uint16).max - 1;
        vm.assertEq(pool.loseDelegated(0.5 ether), 0.5 ether);
        vm.assertEq(pool.generation, type(uint16).max - 1);
        vm.assertEq(pool.loseDelegated(0.5 ether), 0.5 ether);
        vm.assertEq(pool.generation, type(uint16).max);
        (pool.delegated, pool.shares, pool.delegatedLocked) = (1 ether, 1 ether, 1 ether);
        vm.assertEq(pool.loseDelegated(1 ether), 1 ether);
        vm.assertEq(pool.generation, type(uint16).max);
        vm.assertEq(pool.shares, 1 ether);
        vm.assertEq(pool.total() + pool.delegatedLocked, 0);
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

    function testFuzz_OwnLoss(uint96 own, uint96 thawing, uint104 shares, uint96 amount) public {
        _loseOwn(own >> 4, thawing >> 4, uint104(bound(shares, thawing >> 4, type(uint104).max)), amount >> 4);
    }

    function testFuzz_DelegatedLoss(uint96 assets, uint104 shares, uint96 thawing, uint104 thawingShares, uint96 amount)
        public
    {
        shares = uint104(bound(shares, assets >> 4, type(uint104).max));
        thawingShares = uint104(bound(thawingShares, thawing >> 4, type(uint104).max));
        _loseDelegated(assets >> 4, shares, thawing >> 4, thawingShares, amount >> 3);
    }

    function testFuzz_Newcomers(uint96 own, uint96 before, uint96 amount, uint32 epoch) public {
        check_NewcomersEarnFromTheSecondEpoch(own >> 4, before >> 4, amount >> 4, epoch);
    }

    function testFuzz_NewcomersInARow(uint96 own, uint96 before, uint96 amount, uint32 epoch) public {
        check_NewcomersInARowEarnFromTheirOwn(own >> 4, before >> 4, amount >> 4, epoch);
    }

    /// @notice A loss of own stake takes what was asked for, active stake first, and lowers stake and locks by that; what is
    /// delegated stays.
    function check_OwnLossIsWhatWasAsked(uint96 own, uint96 thawing, uint104 shares, uint96 amount) public {
        _loseOwn(own, thawing, shares, amount);
    }

    /// @notice A loss of active delegated stake takes what was asked for or all there is, or a rest besides that is worth
    /// less than 2^-12 a share, and what is the operator's own stays.
    function check_DelegatedLossIsWhatIsThere(uint96 assets, uint104 shares, uint96 amount) public {
        _loseDelegated(assets, shares, 0, 0, amount);
    }

    /// @notice Own stake that comes in, once or twice, earns nothing in its epoch and the next, and all from then on.
    function check_NewcomersEarnFromTheSecondEpoch(uint96 own, uint96 first, uint96 second, uint32 epoch) public {
        if (own >= 1 << 92 || first >= 1 << 92 || second >= 1 << 92) return;
        if (epoch < 2 || epoch > type(uint32).max - 3) return;
        pool.own = own;
        pool.addOwn(first, epoch);
        pool.addOwn(second, epoch);
        assert(_earningOwn(epoch) == own);
        assert(_earningOwn(epoch + 1) == own);
        assert(_earningOwn(epoch + 2) == uint256(own) + first + second);
    }

    /// @notice What comes in in two epochs in a row earns from the second epoch after its own, each part for itself.
    function check_NewcomersInARowEarnFromTheirOwn(uint96 own, uint96 first, uint96 second, uint32 epoch) public {
        if (own >= 1 << 92 || first >= 1 << 92 || second >= 1 << 92) return;
        if (epoch < 2 || epoch > type(uint32).max - 3) return;
        pool.own = own;
        pool.addOwn(first, epoch);
        pool.addOwn(second, epoch + 1);
        assert(_earningOwn(epoch + 1) == own);
        assert(_earningOwn(epoch + 2) == uint256(own) + first);
        assert(_earningOwn(epoch + 3) == uint256(own) + first + second);
    }

    function _earningOwn(uint32 epoch) private view returns (uint256 earning) {
        (,, earning,) = pool.earningAt(epoch);
    }

    function _loseOwn(uint96 own, uint96 thawing, uint104 shares, uint96 amount) private {
        if (own >= 1 << 92 || thawing >= 1 << 92 || shares < thawing) return;
        uint256 total = uint256(own) + thawing;
        if (amount > total) return; // own stake covers its locks
        (pool.own, pool.delegated, pool.shares) = (own, 7, 7);
        (pool.ownThawing.assets, pool.ownThawing.shares) = (thawing, thawing == 0 ? 0 : shares);
        pool.ownLocked = uint96(total);
        assert(pool.loseOwn(amount) == amount);
        assert(uint256(pool.own) + pool.ownThawing.assets == total - amount);
        assert(pool.ownLocked == total - amount);
        assert(amount > own || pool.ownThawing.assets == thawing);
        assert(pool.delegated == 7 && pool.shares == 7 && pool.delegatedLocked == 0);
    }

    function _loseDelegated(uint96 assets, uint104 shares, uint96 thawing, uint104 thawingShares, uint96 amount)
        private
    {
        if (assets >= 1 << 92 || thawing >= 1 << 92 || shares < assets || thawingShares < thawing) return;
        if (assets == 0 && shares != 0) return; // a share is worth something
        (pool.own, pool.ownLocked, pool.delegated, pool.shares) = (7, 5, assets, shares);
        (pool.thawing.assets, pool.thawing.shares) = (thawing, thawing == 0 ? 0 : thawingShares);
        pool.delegatedLocked = amount;
        uint256 total = uint256(assets) + thawing;
        uint256 taken = pool.loseDelegated(amount);
        uint256 asked = amount < total ? amount : total;
        assert(asked <= taken && taken <= total);
        assert(pool.total() == 7 + total - taken);
        assert(pool.own == 7 && pool.ownLocked == 5 && pool.delegatedLocked == 0);
        assert(taken - asked <= (uint256(shares) + thawingShares) >> 12);
        assert(asked == 0 || pool.shares == 0 || pool.shares <= uint256(pool.delegated) << 12);
    }
}
