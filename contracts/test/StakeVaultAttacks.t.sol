// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {StakeVaultFixture} from "./StakeVaultFixture.sol";
import {StakeVault} from "../src/StakeVault.sol";

/// @notice Each test is named after a bug that a staking contract elsewhere had.
contract StakeVaultAttacksTest is StakeVaultFixture {
    /// @notice First depositor mints dust, donates, and the next one's shares round to zero (ERC-4626 vaults).
    function testFuzz_InflationAttack(uint96 donation, uint96 victim) public {
        uint256 gift = bound(donation, 0, 1e5 ether);
        uint256 amount = bound(victim, MINIMUM, 1e5 ether);
        _delegate(BOB, MINIMUM);
        vm.prank(BOB);
        token.transfer(address(vault), gift);
        vm.assertEq(_delegate(ALICE, amount), amount);
        vm.assertEq(_worth(ALICE), amount);
    }

    /// @notice Tokens sent to the vault move neither prices nor rewards.
    function test_Donation() public {
        _stake(1 ether);
        _delegate(ALICE, 1 ether);
        _skip(2);
        token.transfer(address(vault), 100 ether);
        vm.assertEq(_worth(ALICE), 1 ether);
        vm.assertEq(_pending(ALICE), 0);
        vm.assertEq(_lockable(), 2 ether);
        _distribute(OPERATOR, 2 ether);
        _earned(_pending(ALICE), 1 ether);
    }

    /// @notice Livepeer: one wei bonded on behalf of a delegator before the reward call cost it its rewards.
    function test_LivepeerRewardsGriefing() public {
        _delegate(ALICE, 100 ether);
        _skip(3);
        _distribute(OPERATOR, 1 ether);
        _delegate(BOB, MINIMUM);
        _undelegate(BOB, MINIMUM);
        vm.assertEq(_claimFor(BOB), 0);
        _distribute(OPERATOR, 1 ether);
        _earned(_pending(ALICE), 2 ether);
        _earned(_claim(ALICE), 2 ether);
    }

    /// @notice FLock: somebody who joins lowers what others see as claimable. Here nobody does.
    function testFuzz_FlockJoiningDilutesNoClaim(uint96 amount, bool leaves) public {
        _stake(1 ether);
        _delegate(ALICE, 1 ether);
        _skip(2);
        _distribute(OPERATOR, 1 ether);
        uint256 pending = _pending(ALICE);
        uint256 shares = _delegate(BOB, bound(amount, MINIMUM, 1e6 ether));
        if (leaves) _undelegate(BOB, shares);
        vm.assertEq(_pending(ALICE), pending);
        _distribute(OPERATOR, 1 ether);
        vm.assertLe(2 * pending, _pending(ALICE), "as much as before");
    }

    /// @notice The Graph M-01: an absurd thawing period overflowed, so that stake thawed at once.
    function testFuzz_GraphAbsurdThawingPeriod(uint32 unbonding, uint32 delay, uint32 epoch) public {
        StakeVault.Settings memory settings = _settings();
        settings.unbondingEpochs = uint32(bound(unbonding, 10_000, type(uint32).max));
        settings.commissionDelay = delay;
        vm.expectRevert(StakeVault.InvalidSettings.selector);
        new StakeVault(token, address(this), address(this), settings);

        // nor does a request's epoch wrap round: there is none at the end of time
        epoch = uint32(bound(epoch, vault.currentEpoch() + 1, type(uint32).max));
        _delegate(ALICE, 1 ether);
        _undelegate(ALICE, 1 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.NothingToWithdraw.selector, ALICE, epoch));
        _withdraw(ALICE, epoch);
    }

    /// @notice The Graph M-02: a provider that withdrew first made the slash revert.
    function test_GraphSlashFrontRunByWithdrawal() public {
        _stake(10 ether);
        _delegate(ALICE, 10 ether);
        _lock(TASK, 15 ether);
        uint32 epoch = _unstake(10 ether);
        _undelegate(ALICE, 10 ether);
        _skip(UNBONDING + 1);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, 7.5 ether, 0));
        vm.prank(OPERATOR);
        vault.withdrawStake(epoch);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, 7.5 ether, 0));
        _withdraw(ALICE, epoch);
        vm.assertEq(_slash(TASK, 100 ether), 15 ether);
        vm.prank(OPERATOR);
        vm.assertEq(vault.withdrawStake(epoch), 2.5 ether);
        vm.assertEq(_withdraw(ALICE, epoch), 2.5 ether);
    }

    /// @notice The Graph H-02: once the operator had nothing left, its delegators could not be slashed.
    function test_GraphDelegatorsUnslashableWhenOperatorIsEmpty() public {
        _stake(20 ether);
        _delegate(ALICE, 80 ether);
        _lock(TASK, 50 ether);
        _lock(OTHER_TASK, 50 ether);
        vm.assertEq(_slash(TASK, 10 ether), 10 ether);
        vm.assertEq(_slash(OTHER_TASK, 10 ether), 10 ether);
        vm.assertEq(vault.pool(OPERATOR).own, 0);
        vm.assertEq(_slash(TASK, 15 ether), 15 ether);
        vm.assertEq(_slash(OTHER_TASK, 60 ether), 40 ether);
        vm.assertEq(_worth(ALICE), 25 ether);
    }

    /// @notice The Graph L-03: slashing nearly all and depositing again made shares cheaper by 1e18 each time.
    function test_GraphSlashAndRedepositInflatesShares() public {
        for (uint256 i; i < 40; ++i) {
            _stake(1000 ether);
            _delegate(ALICE, 1000 ether);
            uint256 stake = _lockable();
            _lock(TASK, stake);
            vm.assertLe(2000 ether, stake, "all of it");
            if (i % 2 == 0) _undelegate(ALICE, _shares(ALICE) / 2);
            vault.slash(TASK, OPERATOR, stake - 1 - i * 1e12);
            vault.unlock(TASK, OPERATOR);
            vm.assertLe(_shares(ALICE), 2000 ether << 12, "shares stay bounded");
        }
        _stake(1000 ether);
        _lock(TASK, _lockable());
        vault.slash(TASK, OPERATOR, type(uint256).max);
        uint256 worth = _worth(ALICE);
        _delegate(ALICE, 1000 ether);
        vm.assertLe(worth + 1000 ether, _worth(ALICE) + 1, "and no deposit loses more than a wei");
    }

    /// @notice Trust H-4 on The Graph: the last withdrawal failed by one wei.
    function testFuzz_TrustLastWithdrawalByOneWei(uint96[3] memory amounts, uint96 slashed, uint96 late) public {
        address[3] memory accounts = [ALICE, BOB, OPERATOR];
        uint256 total;
        for (uint256 i; i < 3; ++i) {
            uint256 amount = bound(amounts[i], MINIMUM, 1e5 ether);
            _delegate(accounts[i], amount);
            total += amount;
        }
        uint256 own = total / 4 + 7;
        _stake(own);
        _lock(TASK, total + own);
        uint32 epoch = _undelegate(ALICE, _shares(ALICE));
        vault.slash(TASK, OPERATOR, own + bound(slashed, 0, total));
        if (_shares(BOB) != 0) _undelegate(BOB, _shares(BOB));
        vault.slash(TASK, OPERATOR, bound(late, 0, total / 10));
        if (_shares(OPERATOR) != 0) _undelegate(OPERATOR, _shares(OPERATOR));
        vault.unlock(TASK, OPERATOR);
        _skip(UNBONDING + 1);
        for (uint256 i; i < 3; ++i) {
            if (vault.thawingOf(OPERATOR, accounts[i], epoch) != 0) _withdraw(accounts[i], epoch);
        }
        vm.assertEq(vault.pool(OPERATOR).thawing, 0);
        vm.assertEq(vault.pool(OPERATOR).delegated, 0);
    }

    /// @notice EigenLayer: repeated small slashes rounded to nothing. Here each takes its wei.
    function test_EigenLayerSmallSlashesRoundToZero() public {
        _stake(500 ether);
        _delegate(ALICE, 1000 ether);
        _delegate(BOB, 500 ether);
        _lock(TASK, 2000 ether);
        uint32 epoch = _undelegate(BOB, 500 ether);
        _slash(TASK, 500 ether); // all that is the operator's own
        uint256 sunk = token.balanceOf(SINK);
        for (uint256 i; i < 300; ++i) {
            vm.assertEq(_slash(TASK, 1), 1);
        }
        vm.assertEq(token.balanceOf(SINK), sunk + 300);
        StakeVault.PoolInfo memory info = vault.pool(OPERATOR);
        vm.assertEq(info.delegated + info.thawing, 1500 ether - 300);
        vm.assertEq(vault.lockedStake(TASK, OPERATOR), 1500 ether - 300);
        vm.assertLe(_worth(ALICE) + vault.thawingOf(OPERATOR, BOB, epoch), 1500 ether - 300, "felt by the delegators");
    }

    /// @notice EigenLayer: a deposit after a full slash divided by zero. A small rest after a slash is as harmless.
    function testFuzz_EigenLayerDepositAfterFullSlash(uint96 rest, uint96 amount) public {
        _stake(10 ether);
        _delegate(ALICE, 10 ether);
        _lock(TASK, 20 ether);
        rest = uint96(bound(rest, 0, 1e9));
        vm.assertEq(_slash(TASK, 20 ether - rest), 20 ether - rest);
        // what an exhausted generation leaves goes with it, and enriches nobody
        vm.assertEq(token.balanceOf(SINK), 10 ether);
        vm.assertEq(vault.pool(OPERATOR).own + vault.pool(OPERATOR).delegated, 0);
        uint256 added = bound(amount, MINIMUM, 1e5 ether);
        vm.assertEq(_delegate(BOB, added), added);
        vm.assertEq(_worth(BOB), added);
        vm.assertEq(_slash(TASK, 10 ether), rest); // of the lock; dust, whoever is there now
        vm.assertEq(_worth(BOB), added - rest);
        vm.assertEq(token.balanceOf(SINK), 10 ether + rest);
    }

    /// @notice Trust H-2 on The Graph: two requests came to one id, and the later took the place of the earlier.
    function test_TrustRequestsCollide() public {
        address other = address(0x0E);
        _accept(other);
        _stake(4 ether);
        address[4] memory pools = [OPERATOR, OPERATOR, other, OPERATOR];
        address[4] memory accounts = [ALICE, BOB, ALICE, OPERATOR];
        for (uint256 i; i < 4; ++i) {
            vm.startPrank(accounts[i]);
            vault.delegate(pools[i], 10 ether);
            vault.undelegate(pools[i], (i + 1) * 1 ether);
            vault.undelegate(pools[i], 0.5 ether); // in the same epoch: one request, of both
            vm.stopPrank();
        }
        uint32 epoch = _unstake(3 ether);
        _nextEpoch();
        _undelegate(ALICE, 0.25 ether);
        _skip(UNBONDING + 1);
        for (uint256 i; i < 4; ++i) {
            vm.prank(accounts[i]);
            vm.assertEq(vault.withdraw(pools[i], epoch), i * 1 ether + 1.5 ether);
        }
        vm.assertEq(_withdraw(ALICE, epoch + 1), 0.25 ether);
        vm.prank(OPERATOR);
        vm.assertEq(vault.withdrawStake(epoch), 3 ether);
        vm.assertEq(token.balanceOf(address(vault)), 41 ether - 12 ether - 0.25 ether - 3 ether + 3 ether);
    }

    /// @notice EigenLayer (slashing audits): a cast cut an amount down to its low bits.
    function testFuzz_EigenLayerCastsTruncate(uint256 beyond, uint96 low) public {
        _fund(ALICE, type(uint128).max);
        _stake(10 ether);
        _delegate(ALICE, 10 ether);
        _lock(TASK, 5 ether);
        uint256 amount = (bound(beyond, 1, type(uint128).max >> 104) << 104) + bound(low, 0, 1 ether);
        vm.expectRevert(_tooBig(amount));
        vm.prank(ALICE);
        vault.stake(amount);
        vm.expectRevert(_tooBig(amount));
        vm.prank(ALICE);
        vault.delegate(OPERATOR, amount);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 10 ether, amount));
        _unstake(amount);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 10 ether, amount));
        _undelegate(ALICE, amount);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 15 ether, amount));
        _lock(TASK, amount);
        vm.expectRevert(_tooBig(amount));
        vault.distribute(OPERATOR, amount);
        (uint256 own, uint256 delegated, uint256 left) = vault.slash(TASK, OPERATOR, amount);
        vm.assertEq(own, 2.5 ether);
        vm.assertEq(delegated, 2.5 ether);
        vm.assertEq(left, 0);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 5 ether, amount));
        vault.payOut(ALICE, amount);
    }

    function _tooBig(uint256 amount) private pure returns (bytes memory) {
        return abi.encodeWithSelector(SafeCast.SafeCastOverflowedUintDowncast.selector, 96, amount);
    }

    /// @notice EigenLayer (slashing audits): requests queued up until nobody could pay for going through the queue.
    function test_EigenLayerDeallocationQueue() public {
        _stake(500 ether);
        _delegate(ALICE, 500 ether);
        _delegate(BOB, 500 ether);
        _lock(TASK, 900 ether);
        uint256 gas = _gasOfSlash();
        uint32 first = _undelegate(ALICE, 1 ether);
        for (uint256 i; i < 300; ++i) {
            _nextEpoch();
            _unstake(1 ether);
            _undelegate(ALICE, 1 ether);
            _undelegate(BOB, 1 ether);
        }
        uint32 last = vault.currentEpoch();
        vm.assertLe(_gasOfSlash(), gas + 100, "a slash costs what it did before");
        _skip(UNBONDING + 1);
        gas = gasleft();
        _withdraw(BOB, last); // past 300 of its own and as many of others
        gas -= gasleft();
        uint256 before = gasleft();
        _withdraw(ALICE, first);
        vm.assertLe(gas, before - gasleft() + 100, "so does the last request");
    }

    function _gasOfSlash() private returns (uint256 gas) {
        gas = gasleft();
        vault.slash(TASK, OPERATOR, 1 ether);
        return gas - gasleft();
    }

    /// @notice Livepeer: who bonded again, to a pool whose factors were zero, had a part of all that it had ever paid.
    function test_LivepeerRebondWithUninitialisedFactors() public {
        _delegate(ALICE, 100 ether);
        _skip(2);
        _distribute(OPERATOR, 5 ether);
        uint32 epoch = _undelegate(ALICE, 100 ether);
        _claim(ALICE);
        _skip(UNBONDING + 1);
        _withdraw(ALICE, epoch);
        _delegate(BOB, 100 ether);
        _skip(2);
        _distribute(OPERATOR, 7 ether);
        _delegate(ALICE, 100 ether); // once more, from nothing
        vm.assertEq(_pending(ALICE), 0);
        _stake(50 ether);
        _lock(TASK, 250 ether);
        vault.slash(TASK, OPERATOR, 250 ether); // all: a generation ends
        vm.assertEq(vault.pool(OPERATOR).generation, 1);
        vault.unlock(TASK, OPERATOR);
        _delegate(ALICE, 200 ether);
        vm.assertEq(_pending(ALICE), 0);
        _skip(2);
        vm.assertEq(_pending(ALICE), 0);
        _distribute(OPERATOR, 1 ether);
        _earned(_pending(ALICE), 1 ether);
        _earned(_pending(BOB), 7 ether);
    }

    /// @notice Prime Intellect: what the index had grown by counted for the units of now, those it had grown for being others.
    function testFuzz_PrimeIntellectIndexTimesCurrentUnits(uint96 amount, bool leaves) public {
        _delegate(ALICE, 100 ether);
        _delegate(BOB, 300 ether);
        _skip(2);
        _distribute(OPERATOR, 4 ether);
        uint256 added = bound(amount, MINIMUM, 99 ether);
        for (uint256 i; i < 2; ++i) {
            if (leaves) _undelegate(ALICE, added);
            else _delegate(ALICE, added);
            _earned(_pending(ALICE), 1 ether);
            _nextEpoch();
            _earned(_pending(ALICE), 1 ether);
            if (!leaves) _undelegate(ALICE, added);
            else _delegate(ALICE, added);
        }
        _earned(_claim(ALICE), 1 ether);
        _earned(_claim(BOB), 3 ether);
    }

    /// @notice Synthetix: what came in while nobody was staked was lost.
    function test_SynthetixRewardsWithoutStakers() public {
        _distribute(OPERATOR, 5 ether);
        vm.prank(OPERATOR);
        vm.assertEq(vault.claimOperatorRewards(), 5 ether);
    }

    /// @notice An operator that adds stake just before a payment does not take its delegators' part of it.
    function test_OperatorCrowdsOutItsDelegators() public {
        _delegate(ALICE, 100 ether);
        _skip(2);
        _stake(1e5 ether);
        for (uint256 i = 1; i <= 2; ++i) {
            _distribute(OPERATOR, 1 ether);
            _earned(_pending(ALICE), i * 1 ether);
            _nextEpoch();
        }
    }

    /// @notice Whoever unbonds before a slash loses what it would have lost by staying, to a wei.
    function testFuzz_OrderOfSlashAndUnbonding(uint96[4] memory amounts, uint96 own, uint96 slashed) public {
        address other = address(0x0E);
        _fund(other, 1e6 ether);
        _accept(other);
        _serve(other);
        _skip(DELAY);
        uint256 total;
        for (uint256 i; i < 2; ++i) {
            uint256 amount = bound(amounts[i], MINIMUM, 1e5 ether);
            total += amount;
            for (uint256 j; j < 2; ++j) {
                vm.prank(i == 0 ? ALICE : BOB);
                vault.delegate(j == 0 ? OPERATOR : other, amount);
            }
        }
        own = uint96(bound(own, total / 4 + 1, 1e5 ether));
        total += own;
        _stake(own);
        vm.prank(other);
        vault.stake(own);
        _lock(TASK, total);
        vault.lock(TASK, other, CREATOR, total);
        uint256 amount = bound(slashed, 0, total);
        uint32 epoch = _undelegate(ALICE, _shares(ALICE));
        vault.slash(TASK, OPERATOR, amount);
        vault.slash(TASK, other, amount);
        uint256 held = vault.delegation(other, ALICE).shares;
        if (held == 0) return _near(vault.thawingOf(OPERATOR, ALICE, epoch), 0, total >> 11);
        vm.prank(ALICE);
        vault.undelegate(other, held);
        _near(vault.thawingOf(OPERATOR, ALICE, epoch), vault.thawingOf(other, ALICE, epoch), 1);
        _near(_worth(BOB), vault.delegation(other, BOB).assets, 1);
    }

    function _near(uint256 left, uint256 right, uint256 tolerance) private pure {
        vm.assertLe(left, right + tolerance, "more");
        vm.assertLe(right, left + tolerance, "less");
    }

    function _claimFor(address account) private returns (uint256) {
        vm.prank(account);
        return vault.claim(OPERATOR);
    }
}
