// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {StakeVaultFixture} from "./StakeVaultFixture.sol";
import {StakeVault} from "../src/StakeVault.sol";

/// @notice Whose stake a lock is made of, and whose a slash takes.
contract StakeVaultLocksTest is StakeVaultFixture {
    address private constant OTHER_CREATOR = address(0xC1);

    function _checkLock(bytes32 task, uint256 own, uint256 delegated) private view {
        StakeVault.Lock memory lock = vault.lockOf(task, OPERATOR);
        vm.assertEq(lock.own, own);
        vm.assertEq(lock.delegated, delegated);
        vm.assertEq(vault.lockedStake(task, OPERATOR), own + delegated);
    }

    function test_CreatorsCountFromTheirEpochOn() public {
        _stake(10 ether);
        _delegate(ALICE, 20 ether);
        vm.assertEq(vault.servedFrom(OPERATOR, OTHER_CREATOR), 0);
        vm.assertEq(vault.lockable(OPERATOR, OTHER_CREATOR), 10 ether);
        uint256 from = vault.currentEpoch() + DELAY;
        vm.expectEmit(address(vault));
        emit StakeVault.CreatorAdded(OPERATOR, OTHER_CREATOR, from);
        vm.startPrank(OPERATOR);
        vault.addCreator(OTHER_CREATOR);
        vm.assertEq(vault.servedFrom(OPERATOR, OTHER_CREATOR), from);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.AlreadyServed.selector, OTHER_CREATOR, from));
        vault.addCreator(OTHER_CREATOR);
        _skip(DELAY - 1);
        vm.assertEq(vault.lockable(OPERATOR, OTHER_CREATOR), 10 ether);
        _nextEpoch();
        vm.assertEq(vault.lockable(OPERATOR, OTHER_CREATOR), 30 ether);
        vm.assertEq(vault.lockable(ALICE, OTHER_CREATOR), 0);
        vm.expectEmit(address(vault));
        emit StakeVault.CreatorRemoved(OPERATOR, OTHER_CREATOR);
        vault.removeCreator(OTHER_CREATOR);
        vm.assertEq(vault.lockable(OPERATOR, OTHER_CREATOR), 10 ether);
        vault.addCreator(OTHER_CREATOR); // once more, and it waits once more
        vm.assertEq(vault.lockable(OPERATOR, OTHER_CREATOR), 10 ether);
        vm.stopPrank();
    }

    /// @dev A lock that was made stays what it is when its creator is removed.
    function test_RemovedCreatorKeepsItsLocks() public {
        _stake(10 ether);
        _delegate(ALICE, 10 ether);
        vm.assertTrue(_lock(TASK, 10 ether), "shared");
        vm.prank(OPERATOR);
        vault.removeCreator(CREATOR);
        _checkLock(TASK, 5 ether, 5 ether);
        vm.assertEq(_slash(TASK, 7 ether), 7 ether);
        vm.assertEq(_worth(ALICE), 8 ether);
        vm.assertTrue(!_lock(OTHER_TASK, 5 ether), "of own stake alone");
        _checkLock(OTHER_TASK, 5 ether, 0);
    }

    function test_LockOfAnUnlistedCreatorIsOwnStakeAlone() public {
        _stake(10 ether);
        _delegate(ALICE, 30 ether);
        vm.expectEmit(address(vault));
        emit StakeVault.Locked(TASK, OPERATOR, 10 ether, 0);
        vm.assertTrue(!vault.lock(TASK, OPERATOR, OTHER_CREATOR, 10 ether), "of own stake alone");
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 0, 1));
        _lock(OTHER_TASK, 1); // nor is anything left for one that is listed
        vm.assertEq(_slash(TASK, 100 ether), 10 ether);
        vm.assertEq(_worth(ALICE), 30 ether);
    }

    /// @dev Own stake covers its part of what is free, rounded up, and a fifth at least.
    function testFuzz_LockIsSplit(uint96 own, uint96 delegated, uint256 amount) public {
        own = uint96(bound(own, 1, 1e5 ether));
        delegated = uint96(bound(delegated, MINIMUM, 1e5 ether));
        _stake(own);
        _delegate(ALICE, delegated);
        uint256 most = uint256(own) + delegated;
        if (most > 5 * uint256(own)) most = 5 * uint256(own);
        vm.assertEq(_lockable(), most);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, most, most + 1));
        _lock(TASK, most + 1);
        amount = bound(amount, 0, most);
        bool shared = _lock(TASK, amount);
        uint256 all = uint256(own) + delegated;
        uint256 part = (amount * own + all - 1) / all;
        if (part < (amount + 4) / 5) part = (amount + 4) / 5;
        _checkLock(TASK, part, amount - part);
        vm.assertTrue(shared == (amount != part), "shared");
        StakeVault.PoolInfo memory info = vault.pool(OPERATOR);
        vm.assertEq(info.ownLocked, part);
        vm.assertEq(info.delegatedLocked, amount - part);
        // what is left can be locked as well, and no more
        uint256 rest = _lockable();
        _lock(OTHER_TASK, rest);
        info = vault.pool(OPERATOR);
        vm.assertLe(info.ownLocked, own, "own");
        vm.assertLe(info.delegatedLocked, delegated, "delegated");
        vault.unlock(TASK, OPERATOR);
        vault.unlock(OTHER_TASK, OPERATOR);
        vm.assertEq(_lockable(), most);
        _checkLock(TASK, 0, 0);
    }

    function test_LargestLockOnAFifth() public {
        _stake(10 ether);
        _delegate(ALICE, 90 ether);
        vm.assertEq(_lockable(), 50 ether);
        _lock(TASK, 50 ether);
        _checkLock(TASK, 10 ether, 40 ether);
        vm.assertEq(_lockable(), 0); // 50 of the delegated stake are free, but nothing of its own
        (uint256 own, uint256 delegated, uint256 left) = vault.slash(TASK, OPERATOR, 15 ether);
        vm.assertEq(own, 10 ether);
        vm.assertEq(delegated, 5 ether);
        vm.assertEq(left, 35 ether);
        _checkLock(TASK, 0, 35 ether);
    }

    /// @dev A slash tells whose it was, and takes no more of each kind than the task had locked of it.
    function test_SlashTellsItsParts() public {
        _stake(40 ether);
        _delegate(ALICE, 40 ether);
        _lock(TASK, 20 ether);
        vm.expectEmit(address(vault));
        emit StakeVault.Slashed(TASK, OPERATOR, 10 ether, 2 ether);
        (uint256 own, uint256 delegated, uint256 left) = vault.slash(TASK, OPERATOR, 12 ether);
        vm.assertEq(own, 10 ether);
        vm.assertEq(delegated, 2 ether);
        vm.assertEq(left, 8 ether);
        StakeVault.PoolInfo memory info = vault.pool(OPERATOR);
        vm.assertEq(info.own, 30 ether); // there is more, but it is not this task's
        vm.assertEq(info.delegated, 38 ether);
        vm.assertEq(info.ownLocked, 0);
        vm.assertEq(info.delegatedLocked, 8 ether);
        uint256 before = token.balanceOf(address(vault));
        vault.payOut(BOB, 10 ether);
        vault.payOutRest(SINK);
        vm.assertEq(token.balanceOf(SINK), 2 ether);
        vm.assertEq(token.balanceOf(address(vault)), before - 12 ether);
    }

    /// @dev Own stake that thaws answers for its lock, and what an exhausted generation of it leaves is the operator's own.
    function test_ThawingOwnStakeIsLostAndItsRestStays() public {
        _stake(100 ether);
        _lock(TASK, 100 ether);
        uint32 epoch = _unstake(100 ether);
        vm.assertEq(_slash(TASK, 100 ether - 1), 100 ether - 1);
        vm.assertEq(vault.pool(OPERATOR).own, 1); // active again, and covers what is left of the lock
        vm.assertEq(vault.pool(OPERATOR).ownThawing, 0);
        vm.assertEq(vault.ownThawingOf(OPERATOR, epoch), 0);
        vm.assertEq(vault.pool(OPERATOR).ownLocked, 1);
        vm.assertEq(_slash(TASK, 1), 1);
        vm.assertEq(vault.pool(OPERATOR).own, 0);
        vm.assertEq(token.balanceOf(SINK), 0);
    }

    /// @dev Delegated stake that thaws loses as much as what stays, and its generation ends for itself.
    function test_DelegatedLossIsInProportion() public {
        _stake(100 ether);
        _delegate(ALICE, 300 ether);
        _delegate(BOB, 100 ether);
        _lock(TASK, 500 ether);
        uint32 epoch = _undelegate(BOB, 100 ether);
        vm.assertEq(_slash(TASK, 100 ether + 40 ether), 140 ether);
        vm.assertEq(_worth(ALICE), 270 ether);
        vm.assertEq(vault.thawingOf(OPERATOR, BOB, epoch), 90 ether);
        vm.assertEq(token.balanceOf(SINK), 40 ether);
        _skip(UNBONDING + 1);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, 360 ether, 270 ether));
        _withdraw(BOB, epoch);
        vault.unlock(TASK, OPERATOR);
        vm.assertEq(_withdraw(BOB, epoch), 90 ether);
    }
}
