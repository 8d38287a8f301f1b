// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {StakeVaultFixture} from "./StakeVaultFixture.sol";
import {StakeVault} from "../src/StakeVault.sol";

contract StakeVaultTest is StakeVaultFixture {
    function test_SettingsAreBounded() public {
        StakeVault.Settings[5] memory bad;
        for (uint256 i; i < bad.length; ++i) {
            bad[i] = _settings();
        }
        bad[0].epochLength = 59;
        bad[1].unbondingEpochs = 0;
        bad[2].commissionDelay = UNBONDING;
        bad[3].commissionDelay = 10_001;
        bad[4].minDelegation = 2 ** 44 - 1;
        for (uint256 i; i < bad.length; ++i) {
            delay = i == 0 ? 0 : 6 hours;
            vm.expectRevert(StakeVault.InvalidSettings.selector);
            new StakeVault(token, address(this), address(this), bad[i]);
        }
        bad[0].epochLength = 60;
        delay = 15;
        new StakeVault(token, address(this), address(this), bad[0]);
        delay = 16; // four of them are longer than an epoch
        vm.expectRevert(StakeVault.InvalidSettings.selector);
        new StakeVault(token, address(this), address(this), bad[0]);
    }

    function test_OnlyTheTiedContractsMayAct() public {
        vault = new StakeVault(token, ALICE, address(this), _settings());
        address[3] memory callers = [ALICE, address(this), OPERATOR];
        for (uint256 i; i < 3; ++i) {
            bytes memory denied = abi.encodeWithSelector(StakeVault.Unauthorized.selector, callers[i]);
            vm.startPrank(callers[i]);
            if (i != 0) vm.expectRevert(denied);
            _lock(TASK, 0);
            if (i != 0) vm.expectRevert(denied);
            vault.unlock(TASK, OPERATOR);
            if (i != 0) vm.expectRevert(denied);
            vault.slash(TASK, OPERATOR, 0);
            if (i != 0) vm.expectRevert(denied);
            vault.payOut(OPERATOR, 0);
            if (i != 0) vm.expectRevert(denied);
            vault.payOutRest(OPERATOR);
            if (i != 1) vm.expectRevert(denied);
            vault.distribute(OPERATOR, 0);
            vm.stopPrank();
        }
    }

    function test_NobodyDelegatesUnasked() public {
        bytes memory denied = abi.encodeWithSelector(StakeVault.NotAccepting.selector, BOB);
        vm.startPrank(ALICE);
        vm.expectRevert(denied);
        vault.delegate(BOB, 1 ether);
        vm.stopPrank();
        _accept(BOB);
        vm.prank(ALICE);
        vault.delegate(BOB, 1 ether);
        vm.prank(BOB);
        vault.setAcceptance(false);
        vm.assertTrue(!vault.pool(BOB).accepts, "no more");
        vm.startPrank(ALICE);
        vm.expectRevert(denied);
        vault.delegate(BOB, 1 ether);
        vault.undelegate(BOB, 1 ether); // who is in gets out
    }

    /// @notice The registry gets out what was slashed in this very transaction, once, and nothing else.
    function test_OnlySlashedStakeIsPaidOut() public {
        _stake(10 ether);
        _lock(TASK, 6 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 0, 1));
        vault.payOut(BOB, 1);
        vault.slash(TASK, OPERATOR, 2 ether);
        vault.slash(TASK, OPERATOR, 3 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 5 ether, 5 ether + 1));
        vault.payOut(BOB, 5 ether + 1);
        uint256 before = token.balanceOf(BOB);
        vault.payOut(BOB, 3 ether);
        vault.payOut(BOB, 1 ether);
        vault.payOutRest(BOB);
        vm.assertEq(token.balanceOf(BOB), before + 5 ether);
        vault.payOutRest(BOB);
        vm.assertEq(token.balanceOf(BOB), before + 5 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 0, 1));
        vault.payOut(BOB, 1);
    }

    function test_AmountsThatDoNotFitAreRefused() public {
        uint256 large = 1 << 96;
        bytes memory refusal = abi.encodeWithSelector(SafeCast.SafeCastOverflowedUintDowncast.selector, 96, large);
        token.mint(OPERATOR, large);
        vm.expectRevert(refusal);
        _stake(large);
        vm.expectRevert(refusal);
        _delegate(OPERATOR, large);
        vm.expectRevert(refusal);
        vault.distribute(OPERATOR, large);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 0, large));
        _lock(TASK, large);
    }

    function test_StakeThawsAndLeaves() public {
        _stake(10 ether);
        uint32 epoch = _unstake(4 ether);
        _unstake(2 ether); // the same epoch: one request
        vm.assertEq(vault.ownThawingOf(OPERATOR, epoch), 6 ether);
        vm.assertEq(vault.pool(OPERATOR).own, 4 ether);
        _skip(UNBONDING);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StillThawing.selector, epoch + UNBONDING + 1));
        vm.prank(OPERATOR);
        vault.withdrawStake(epoch);
        _nextEpoch();
        vm.prank(OPERATOR);
        vm.assertEq(vault.withdrawStake(epoch), 6 ether);
        vm.assertEq(token.balanceOf(OPERATOR), 1e6 ether - 4 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.NothingToWithdraw.selector, OPERATOR, epoch));
        vm.prank(OPERATOR);
        vault.withdrawStake(epoch);
    }

    function test_DelegationThawsAndLeaves() public {
        vm.assertEq(_delegate(ALICE, 5 ether), 5 ether);
        _delegate(BOB, 1 ether);
        uint32 epoch = _undelegate(ALICE, 2 ether);
        _undelegate(ALICE, 3 ether);
        vm.assertEq(vault.thawingOf(OPERATOR, ALICE, epoch), 5 ether);
        vm.assertEq(vault.pool(OPERATOR).delegated, 1 ether);
        _skip(UNBONDING);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StillThawing.selector, epoch + UNBONDING + 1));
        _withdraw(ALICE, epoch);
        _nextEpoch();
        vm.expectRevert(abi.encodeWithSelector(StakeVault.NothingToWithdraw.selector, BOB, epoch));
        _withdraw(BOB, epoch);
        vm.assertEq(_withdraw(ALICE, epoch), 5 ether);
        vm.assertEq(token.balanceOf(ALICE), 1e6 ether);
        vm.assertEq(vault.pool(OPERATOR).thawing, 0);
    }

    function test_AmountsAreChecked() public {
        vm.startPrank(ALICE);
        vm.expectRevert(StakeVault.ZeroAmount.selector);
        vault.stake(0);
        vm.expectRevert(StakeVault.ZeroAmount.selector);
        vault.unstake(0);
        vm.expectRevert(StakeVault.ZeroAmount.selector);
        vault.delegate(OPERATOR, 0);
        vm.expectRevert(StakeVault.ZeroAmount.selector);
        vault.undelegate(OPERATOR, 0);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 0, 1));
        vault.unstake(1);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.BelowMinimum.selector, MINIMUM, MINIMUM - 1));
        vault.delegate(OPERATOR, MINIMUM - 1);
        vault.delegate(OPERATOR, MINIMUM + 5);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.BelowMinimum.selector, MINIMUM, MINIMUM - 1));
        vault.undelegate(OPERATOR, 6);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, MINIMUM + 5, MINIMUM + 6));
        vault.undelegate(OPERATOR, MINIMUM + 6);
        vault.undelegate(OPERATOR, MINIMUM + 5);
        vm.stopPrank();
    }

    /// @notice f (1 - sigma) t_d / (t_n + t_d) for each delegator, the rest for the operator.
    function test_RewardsFollowTheFormula() public {
        vm.prank(OPERATOR);
        vault.setCommission(1_000);
        _skip(DELAY);
        _stake(1000 ether);
        _delegate(ALICE, 300 ether);
        _delegate(BOB, 100 ether);
        _skip(2);
        _distribute(OPERATOR, 140 ether);
        _earned(_pending(ALICE), 27 ether);
        _earned(_pending(BOB), 9 ether);
        vm.assertEq(vault.pool(OPERATOR).operatorRewards, 104 ether);
        _earned(_claim(ALICE), 27 ether);
        vm.assertEq(_claim(ALICE), 0);
        vm.prank(OPERATOR);
        vm.assertEq(vault.claimOperatorRewards(), 104 ether);
        vm.prank(OPERATOR);
        vm.assertEq(vault.claimOperatorRewards(), 0);
        _earned(_claim(BOB), 9 ether);
        vm.assertLe(1400 ether, token.balanceOf(address(vault)), "the stakes");
        vm.assertLe(token.balanceOf(address(vault)), 1400 ether + 4, "and dust");
    }

    function test_RewardsWithoutEarningSharesAreTheOperators() public {
        _distribute(OPERATOR, 1 ether);
        _delegate(ALICE, 1 ether);
        _distribute(OPERATOR, 2 ether);
        vm.assertEq(vault.pool(OPERATOR).operatorRewards, 3 ether);
        _nextEpoch();
        _distribute(OPERATOR, 4 ether);
        vm.assertEq(vault.pool(OPERATOR).operatorRewards, 7 ether);
        _nextEpoch();
        _distribute(OPERATOR, 4 ether);
        vm.assertEq(vault.pool(OPERATOR).operatorRewards, 7 ether);
        _earned(_pending(ALICE), 4 ether);
    }

    /// @notice A delegation of epoch e earns nothing in e and e + 1, whether rewards come before or after it, and all from
    /// e + 2 on.
    function test_DelegationEarnsFromTheSecondEpoch() public {
        _delegate(ALICE, 100 ether);
        _skip(2);
        _delegate(BOB, 100 ether);
        _distribute(OPERATOR, 10 ether);
        _delegate(BOB, 200 ether);
        _distribute(OPERATOR, 10 ether);
        _earned(_pending(ALICE), 20 ether);
        vm.assertEq(_pending(BOB), 0);
        vm.assertEq(vault.delegation(OPERATOR, BOB).earningShares, 0);
        vm.assertEq(vault.pool(OPERATOR).earningShares, 100 ether);
        _nextEpoch();
        _distribute(OPERATOR, 4 ether);
        _earned(_pending(ALICE), 24 ether);
        vm.assertEq(_pending(BOB), 0);
        vm.assertEq(vault.pool(OPERATOR).earningShares, 100 ether);
        vm.prank(ALICE);
        vault.claim(OPERATOR);
        _distribute(OPERATOR, 20 ether);
        _nextEpoch();
        _distribute(OPERATOR, 10 ether);
        _earned(_pending(ALICE), 22.5 ether);
        _earned(_pending(BOB), 7.5 ether);
        // many epochs later nothing has changed, and a new delegation in between earns on the old part only
        _skip(5);
        _delegate(BOB, 100 ether);
        _distribute(OPERATOR, 40 ether);
        _skip(5);
        _earned(_pending(BOB), 37.5 ether);
        _earned(_pending(ALICE), 32.5 ether);
        vm.assertEq(vault.delegation(OPERATOR, BOB).earningShares, 400 ether);
    }

    /// @notice Who delegates epoch after epoch: each part earns from the second epoch after its own, none waits for another.
    function test_DelegationsInARowEarnEachFromItsOwn() public {
        _delegate(ALICE, 100 ether);
        _skip(2);
        for (uint256 i; i < 3; ++i) {
            _delegate(BOB, 100 ether);
            _nextEpoch();
        }
        // of bob's the first two earn now, of epochs e and e + 1; the third does from the next epoch on
        vm.assertEq(vault.delegation(OPERATOR, BOB).earningShares, 200 ether);
        vm.assertEq(vault.pool(OPERATOR).earningShares, 300 ether);
        _distribute(OPERATOR, 30 ether);
        _earned(_pending(BOB), 20 ether);
        _delegate(BOB, 1 ether);
        _distribute(OPERATOR, 30 ether);
        _earned(_pending(BOB), 40 ether);
        _nextEpoch();
        _distribute(OPERATOR, 40 ether);
        _earned(_pending(BOB), 70 ether);
        _nextEpoch();
        _distribute(OPERATOR, 401 ether);
        _earned(_pending(BOB), 371 ether);
        _earned(_pending(ALICE), 130 ether);
    }

    /// @notice What was paid in the epoch of a delegation stays the others', also when nothing is paid in the next one.
    function test_PaymentOfItsOwnEpochIsTheOthers() public {
        _delegate(ALICE, 100 ether);
        _skip(2);
        _delegate(BOB, 100 ether);
        _distribute(OPERATOR, 10 ether);
        _skip(2);
        vm.assertEq(_pending(BOB), 0);
        _distribute(OPERATOR, 20 ether);
        _earned(_pending(BOB), 10 ether);
        _earned(_pending(ALICE), 20 ether);
    }

    /// @notice Shares that do not earn yet leave first, the latest before those of the epoch before.
    function test_SharesOfTwoEpochsLeaveInTurn() public {
        _delegate(ALICE, 100 ether);
        _delegate(BOB, 10 ether);
        _skip(2);
        _delegate(BOB, 20 ether);
        _nextEpoch();
        _delegate(BOB, 40 ether);
        _undelegate(BOB, 45 ether); // of 10, 20 and 40: 10 and 15 are left
        vm.assertEq(vault.delegation(OPERATOR, BOB).earningShares, 10 ether);
        _distribute(OPERATOR, 110 ether);
        _earned(_pending(BOB), 10 ether);
        _nextEpoch();
        vm.assertEq(vault.delegation(OPERATOR, BOB).earningShares, 25 ether);
        vm.assertEq(vault.pool(OPERATOR).earningShares, 125 ether);
        _distribute(OPERATOR, 125 ether);
        _earned(_pending(BOB), 35 ether);
        _undelegate(BOB, 20 ether);
        _distribute(OPERATOR, 105 ether);
        _earned(_pending(BOB), 40 ether);
        _nextEpoch();
        vm.assertEq(vault.pool(OPERATOR).earningShares, 105 ether);
        _earned(_pending(ALICE), 300 ether);
    }

    /// @notice In the epoch after newcomers came, somebody that earns leaves: what earns is counted down by as much.
    function test_LeavingTheEpochAfterNewcomers() public {
        _delegate(ALICE, 100 ether);
        _skip(2);
        _delegate(BOB, 50 ether);
        _nextEpoch();
        _undelegate(ALICE, 40 ether);
        vm.assertEq(vault.pool(OPERATOR).earningShares, 60 ether);
        _distribute(OPERATOR, 60 ether);
        _earned(_pending(ALICE), 60 ether);
        vm.assertEq(_pending(BOB), 0);
        _undelegate(BOB, 20 ether); // none of its shares earns yet
        vm.assertEq(vault.pool(OPERATOR).earningShares, 60 ether);
        _nextEpoch();
        vm.assertEq(vault.pool(OPERATOR).earningShares, 90 ether);
        _distribute(OPERATOR, 90 ether);
        _earned(_pending(BOB), 30 ether);
        _earned(_pending(ALICE), 120 ether);
    }

    function test_OwnStakeEarnsFromTheSecondEpoch() public {
        _delegate(ALICE, 100 ether);
        _skip(2);
        _stake(300 ether);
        _distribute(OPERATOR, 5 ether);
        _nextEpoch();
        _distribute(OPERATOR, 5 ether);
        _earned(_pending(ALICE), 10 ether);
        _nextEpoch();
        _distribute(OPERATOR, 10 ether);
        _earned(_pending(ALICE), 12.5 ether);
        _stake(100 ether);
        _unstake(200 ether); // 200 left, all of it of older epochs
        _distribute(OPERATOR, 30 ether);
        _earned(_pending(ALICE), 22.5 ether);
    }

    function test_FreshSharesLeaveFirst() public {
        _delegate(ALICE, 100 ether);
        _delegate(BOB, 100 ether);
        _skip(2);
        _delegate(ALICE, 50 ether);
        _undelegate(ALICE, 50 ether);
        _distribute(OPERATOR, 20 ether);
        _earned(_pending(ALICE), 10 ether);
        _delegate(ALICE, 50 ether);
        _undelegate(ALICE, 75 ether); // 25 of what earns
        vm.assertEq(vault.pool(OPERATOR).earningShares, 175 ether);
        _distribute(OPERATOR, 17.5 ether);
        _earned(_pending(ALICE), 17.5 ether);
        _earned(_pending(BOB), 20 ether);
    }

    function test_CommissionIsBoundedAndLate() public {
        vm.startPrank(OPERATOR);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.CommissionTooHigh.selector, 5_000, 5_001));
        vault.setCommission(5_001);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.CommissionStepTooLarge.selector, 0, 1_001));
        vault.setCommission(1_001);
        vault.setCommission(1_000);
        vm.stopPrank();
        (uint256 current, uint256 next, uint256 from) = vault.commission(OPERATOR);
        vm.assertEq(current, 0);
        vm.assertEq(next, 1_000);
        vm.assertEq(from, vault.currentEpoch() + DELAY);

        _skip(DELAY - 1);
        (current,,) = vault.commission(OPERATOR);
        vm.assertEq(current, 0);
        vm.startPrank(OPERATOR);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.CommissionStepTooLarge.selector, 0, 2_000));
        vault.setCommission(2_000);
        _nextEpoch();
        (current,,) = vault.commission(OPERATOR);
        vm.assertEq(current, 1_000);
        vault.setCommission(2_000);
        (current,,) = vault.commission(OPERATOR);
        vm.assertEq(current, 1_000);
        _skip(DELAY);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.CommissionStepTooLarge.selector, 2_000, 999));
        vault.setCommission(999);
        vm.stopPrank();
    }

    function test_NoStakeAnswersTwice() public {
        _stake(10 ether);
        _delegate(ALICE, 5 ether);
        _lock(TASK, 9 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 6 ether, 6 ether + 1));
        _lock(OTHER_TASK, 6 ether + 1);
        _lock(OTHER_TASK, 6 ether);
        vm.assertEq(_lockable(), 0);
        vm.assertEq(vault.lockedStake(OTHER_TASK, OPERATOR), 6 ether);
        vm.assertEq(_slash(OTHER_TASK, 100 ether), 6 ether);
        vm.assertEq(_slash(OTHER_TASK, 1), 0);
        vm.assertEq(vault.lockedStake(TASK, OPERATOR), 9 ether);
        vm.assertEq(vault.unlock(TASK, OPERATOR), 9 ether);
        vm.assertEq(vault.unlock(TASK, OPERATOR), 0);
        vm.assertEq(vault.pool(OPERATOR).ownLocked + vault.pool(OPERATOR).delegatedLocked, 0);
        vm.assertEq(_lockable(), 9 ether);
    }

    function test_ThawingStakeBacksNoNewLock() public {
        _stake(12 ether);
        _delegate(ALICE, 10 ether);
        _unstake(10 ether);
        _undelegate(ALICE, 4 ether);
        vm.assertEq(_lockable(), 8 ether);
        _lock(TASK, 8 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 0, 1));
        _lock(OTHER_TASK, 1);
    }

    function test_LossesComeInOrder() public {
        _stake(10 ether);
        _delegate(ALICE, 40 ether);
        _lock(TASK, 50 ether);
        uint32 epoch = _unstake(4 ether);
        _undelegate(ALICE, 10 ether);

        uint256 before = token.balanceOf(address(this));
        vm.assertEq(_slash(TASK, 5 ether), 5 ether);
        vm.assertEq(token.balanceOf(address(this)), before + 5 ether);
        vm.assertEq(vault.pool(OPERATOR).own, 1 ether);
        vm.assertEq(vault.pool(OPERATOR).ownThawing, 4 ether);
        vault.slash(TASK, OPERATOR, 3 ether);
        vm.assertEq(vault.pool(OPERATOR).own, 0);
        vm.assertEq(vault.ownThawingOf(OPERATOR, epoch), 2 ether);
        vm.assertEq(vault.pool(OPERATOR).delegated, 30 ether);
        vault.slash(TASK, OPERATOR, 6 ether);
        vm.assertEq(vault.pool(OPERATOR).ownThawing, 0);
        vm.assertEq(_worth(ALICE), 27 ether);
        vm.assertEq(vault.thawingOf(OPERATOR, ALICE, epoch), 9 ether);
        vm.assertEq(vault.pool(OPERATOR).ownLocked, 0);
        vm.assertEq(vault.pool(OPERATOR).delegatedLocked, 36 ether);
    }

    function test_WithdrawalsLeaveTheLocksCovered() public {
        _stake(10 ether);
        _delegate(ALICE, 10 ether);
        _lock(TASK, 12 ether); // six of each
        uint32 first = _undelegate(ALICE, 4 ether);
        _nextEpoch();
        uint32 epoch = _undelegate(ALICE, 6 ether);
        _unstake(10 ether);
        _skip(UNBONDING + 1);
        // each kind of stake answers for its own part of the locks
        vm.assertEq(_withdraw(ALICE, first), 4 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, 6 ether, 0));
        _withdraw(ALICE, epoch);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, 6 ether, 0));
        vm.prank(OPERATOR);
        vault.withdrawStake(epoch);
        _slash(TASK, 8 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, 4 ether, 0));
        _withdraw(ALICE, epoch);
        vm.prank(OPERATOR);
        vm.assertEq(vault.withdrawStake(epoch), 4 ether);
        vault.unlock(TASK, OPERATOR);
        vm.assertEq(_withdraw(ALICE, epoch), 4 ether);
    }

    function test_LockAfterTheRequestDoesNotHoldIt() public {
        _stake(10 ether);
        _delegate(ALICE, 10 ether);
        uint32 epoch = _undelegate(ALICE, 10 ether);
        _lock(TASK, 10 ether);
        _skip(UNBONDING + 1);
        vm.assertEq(_withdraw(ALICE, epoch), 10 ether);
    }

    function test_FullSlashStartsANewGeneration() public {
        _stake(10 ether);
        _delegate(ALICE, 10 ether);
        _skip(2);
        _distribute(OPERATOR, 4 ether);
        _delegate(BOB, 20 ether);
        _lock(TASK, 40 ether);
        uint32 epoch = _undelegate(ALICE, 5 ether);
        _distribute(OPERATOR, 3 ether); // bob does not earn yet
        vm.assertEq(_slash(TASK, type(uint256).max), 40 ether);
        _checkEmptied(epoch);

        _nextEpoch();
        _distribute(OPERATOR, 5 ether);
        _checkEmptied(epoch);
        vm.assertEq(vault.pool(OPERATOR).operatorRewards, 9 ether);

        vm.assertEq(_delegate(BOB, 7 ether), 7 ether);
        _distribute(OPERATOR, 5 ether);
        vm.assertEq(_pending(BOB), 0);
        _nextEpoch();
        _distribute(OPERATOR, 5 ether);
        vm.assertEq(_pending(BOB), 0);
        _nextEpoch();
        _distribute(OPERATOR, 7 ether);
        _earned(_pending(BOB), 7 ether);
        _earned(_pending(ALICE), 3 ether);
        vm.assertEq(_delegate(ALICE, 7 ether), 7 ether);
        _earned(_pending(ALICE), 3 ether);
        uint32 second = _undelegate(ALICE, 7 ether);
        _skip(UNBONDING + 1);
        vm.assertEq(_withdraw(ALICE, epoch), 0);
        vm.assertEq(_withdraw(ALICE, second), 7 ether);
    }

    /// @notice In the epoch of the full slash itself: what comes in afterwards does not earn in it either.
    function test_NewGenerationInTheSameEpoch() public {
        _stake(5 ether);
        _delegate(ALICE, 10 ether);
        _skip(2);
        _delegate(BOB, 10 ether);
        _lock(TASK, 25 ether);
        vault.slash(TASK, OPERATOR, 25 ether);
        _delegate(BOB, 10 ether);
        for (uint256 i = 1; i <= 2; ++i) {
            _distribute(OPERATOR, 1 ether);
            vm.assertEq(_pending(BOB) + _pending(ALICE), 0);
            vm.assertEq(vault.pool(OPERATOR).operatorRewards, i * 1 ether);
            _nextEpoch();
        }
        _distribute(OPERATOR, 1 ether);
        _earned(_pending(BOB), 1 ether);
    }

    function testFuzz_DistributionIsConserved(uint96 own, uint96 alice, uint96 bob, uint96 amount) public {
        own = uint96(bound(own, 1, 1e24));
        _stake(own);
        uint256 a = bound(alice, MINIMUM, 1e24);
        uint256 b = bound(bob, MINIMUM, 1e24);
        uint256 f = bound(amount, 0, 1e26);
        _delegate(ALICE, a);
        _delegate(BOB, b);
        _skip(2);
        _distribute(OPERATOR, f);
        uint256 paid = _pending(ALICE) + _pending(BOB) + vault.pool(OPERATOR).operatorRewards;
        vm.assertLe(paid, f, "no more than came in");
        vm.assertLe(f, paid + 3, "a wei of dust for each of the three divisions");
        vm.assertLe(_pending(ALICE), f * a / (a + b + own), "rounded down");
        vm.assertLe(f * a / (a + b + own), _pending(ALICE) + 2, "by a wei or two");
    }

    function _checkEmptied(uint32 epoch) private view {
        StakeVault.PoolInfo memory info = vault.pool(OPERATOR);
        vm.assertEq(info.own + info.delegated + info.shares + info.thawing + info.earningShares, 0);
        vm.assertEq(info.ownLocked + info.delegatedLocked, 0);
        vm.assertEq(info.generation, 1);
        vm.assertEq(vault.thawingOf(OPERATOR, ALICE, epoch), 0);
        vm.assertEq(_shares(ALICE) + _shares(BOB) + _pending(BOB), 0);
        _earned(_pending(ALICE), 3 ether);
    }
}
