// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";
import {Merkle} from "./Merkle.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report, Slash} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice An operator whose delegators stand behind three of its four slots, among members without delegators.
contract DelegationTest is Fixture {
    uint32 internal constant INDEX = MEMBERS; // of the operator, which joins last
    uint128 internal constant DELEGATED = 3 * STAKE;
    uint128 internal constant PAID = 40 ether;
    address internal constant ALICE = address(0xA1);
    address internal constant BOB = address(0xB0);

    address internal operator;
    uint256[] internal earned;

    function setUp() public override {
        super.setUp();
        operator = vm.addr(99);
        keys[operator] = 99;
        members.push(operator);
        earned = new uint256[](members.length);
        _enrol(operator, STAKE);
        vm.prank(operator);
        vault.addCreator(CREATOR);
        _delegate(operator, ALICE, DELEGATED);
        _skipEpochs(UNBONDING + 1);
    }

    function _skipEpochs(uint256 count) internal {
        vm.warp(block.timestamp + count * VAULT_EPOCH);
    }

    /// @dev A running task of all members; the operator joins with all that its pool has, if nobody says otherwise.
    function _begin(uint128 amount) internal {
        Terms memory terms = _terms();
        terms.maxMembers = MEMBERS + 1;
        terms.pool = POOL;
        _create(terms);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        _join(TASK, operator, amount);
        tasks.start(TASK);
    }

    /// @dev Settles an epoch in which everybody earns `PAID`; returns the operator's proof.
    function _pay() internal returns (bytes32[] memory) {
        Report memory report = _report(TASK);
        for (uint256 i; i < members.length; ++i) {
            earned[i] += PAID;
            report.rewardsTotal += PAID;
        }
        bytes32[] memory nodes = _tree(TASK, earned);
        report.rewardsRoot = nodes[0];
        _settle(report);
        return _proof(nodes, INDEX);
    }

    function _proof(bytes32[] memory nodes, uint256 index) internal view returns (bytes32[] memory) {
        return Merkle.prove(nodes, _leaf(TASK, members[index], earned[index]));
    }

    function _finish(bytes32 task) internal {
        while (tasks.taskInfo(task).status == TaskRegistry.Status.Running) {
            _settle(_report(task));
        }
    }

    function test_DelegatedStakeBuysSlotsOnce() public {
        _begin(STAKE + DELEGATED);
        TaskRegistry.Member memory member = tasks.memberAt(TASK, INDEX);
        vm.assertEq(member.slots, 4);
        vm.assertEq(member.stake, STAKE + DELEGATED);
        vm.assertEq(member.delegated, vault.lockOf(TASK, operator).delegated);
        vm.assertTrue(member.delegated != 0, "its delegators answer too");
        vm.assertEq(vault.lockable(operator, CREATOR), 0);
        bytes32 other = _create(keccak256("other seed"), _terms());
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 0, STAKE));
        _join(other, operator, STAKE);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, WALLET - STAKE, type(uint128).max));
        _join(other, members[0], type(uint128).max); // nor does what fits no field buy anything
        _checkHoldings(TASK, other);
    }

    function test_OnlyTheRegistrySendsRewardsToAPool() public {
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.Unauthorized.selector, operator));
        vm.prank(operator);
        distributor.payToPool(TASK, members[0]);
    }

    /// @dev What an account was paid before stays paid; the rest goes to its pool, for good.
    function test_PoolPaymentGoesOnWhereClaimsEnded() public {
        _begin(STAKE + DELEGATED);
        _pay();
        distributor.claim(TASK, members[3], PAID, _proof(_tree(TASK, earned), 3));
        for (uint256 i; i < 2; ++i) {
            if (i == 0) {
                vm.expectEmit(address(distributor));
                emit RewardDistributor.PoolPaymentSet(TASK, members[3]);
            }
            vm.prank(address(tasks));
            distributor.payToPool(TASK, members[3]);
            vm.assertEq(distributor.claimed(TASK, members[3]), PAID);
        }
        _pay();
        distributor.claimToPool(TASK, members[3], 2 * PAID, _proof(_tree(TASK, earned), 3));
        vm.assertEq(distributor.claimed(TASK, members[3]), 2 * PAID);
        vm.assertEq(vault.pool(members[3]).operatorRewards, PAID);
        vm.assertEq(token.balanceOf(members[3]), PAID);
    }

    /// @dev A slash that a committee settles takes the operator's own stake first, then its delegators'.
    function testFuzz_SettledSlashReachesDelegatorsLast(uint128 amount, uint128 more) public {
        _begin(STAKE + DELEGATED);
        Report memory report = _report(TASK);
        report.slashes = new Slash[](2);
        report.slashes[0] = Slash(INDEX, amount);
        report.slashes[1] = Slash(INDEX, more);
        _settle(report);

        uint256 all = STAKE + DELEGATED;
        uint256 first = amount < all ? amount : all;
        uint256 second = more < all - first ? more : all - first;
        uint256 taken = first + second;
        StakeVault.PoolInfo memory info = vault.pool(operator);
        vm.assertEq(tasks.memberAt(TASK, INDEX).stake, all - taken);
        vm.assertEq(info.own, taken < STAKE ? STAKE - taken : 0);
        uint256 left = taken < STAKE ? DELEGATED : all - taken;
        // What a ruined pool leaves, less than 2^-12 of a share each, goes with it.
        if (info.generation != 0) (ahead, left) = (left, 0);
        vm.assertLe(ahead, DELEGATED >> 12, "dust");
        vm.assertEq(vault.delegation(operator, ALICE).assets, left);
        vm.assertEq(token.balanceOf(SINK), DELEGATED - left);
        // of its own stake alone is there a part for the relayer, and the rest is in escrow
        (uint256 own, uint256 rewarded) = (first < STAKE ? first : STAKE, 0);
        rewarded = own / 10;
        second = second < STAKE - own ? second : STAKE - own;
        rewarded += second / 10;
        vm.assertEq(token.balanceOf(RELAYER), rewarded);
        vm.assertEq(tasks.taskInfo(TASK).poolLeft, POOL);
        vm.assertEq(tasks.taskInfo(TASK).escrow, own + second - rewarded);
        _checkHoldings(TASK, 0);
    }

    function test_EquivocationReachesDelegators() public {
        _begin(STAKE + DELEGATED);
        bytes memory signatures = bytes.concat(
            _signedBy(operator, settlement.messageDigest(TASK, 1, "seed", "acknowledgement", "first")),
            _signedBy(operator, settlement.messageDigest(TASK, 1, "seed", "acknowledgement", "second"))
        );
        settlement.slashEquivocation(TASK, operator, 1, "seed", "acknowledgement", "first", "second", signatures);
        vm.assertEq(vault.pool(operator).own, 0);
        vm.assertEq(vault.delegation(operator, ALICE).assets, DELEGATED - STAKE);
        _checkHoldings(TASK, 0);
    }

    function test_RewardsGoToThePoolAndItsDelegators() public {
        _begin(STAKE + DELEGATED);
        bytes32[] memory proof = _pay();
        vm.assertTrue(distributor.paidToPool(TASK, operator), "to the pool");
        vm.assertTrue(!distributor.paidToPool(TASK, members[0]), "not to a pool");
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.PaidToPool.selector, operator));
        distributor.claim(TASK, operator, PAID, proof);

        vm.expectEmit(address(distributor));
        emit RewardDistributor.Claimed(TASK, operator, PAID, PAID);
        vm.prank(STRANGER);
        distributor.claimToPool(TASK, operator, PAID, proof);
        vm.assertEq(token.balanceOf(operator), 0);
        vm.assertEq(vault.pool(operator).operatorRewards, PAID / 4);
        vm.assertLe(3 * PAID / 4, vault.pendingRewards(operator, ALICE) + 1, "three quarters are the delegator's");
        vm.assertEq(distributor.claimed(TASK, operator), PAID);
        vm.assertEq(tasks.taskInfo(TASK).claimed, PAID);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NothingToClaim.selector, operator, PAID));
        distributor.claimToPool(TASK, operator, PAID, proof);

        proof = _pay();
        distributor.claimToPool(TASK, operator, 2 * PAID, proof);
        vm.assertEq(distributor.claimed(TASK, operator), 2 * PAID);
        vm.assertEq(vault.pool(operator).operatorRewards, PAID / 2);
        vm.prank(ALICE);
        vm.assertLe(3 * PAID / 2, vault.claim(operator) + 2, "and can be taken out");
        vm.prank(operator);
        vm.assertEq(vault.claimOperatorRewards(), PAID / 2);
    }

    function test_ClaimToPoolNeedsAProofAndDelegators() public {
        _begin(STAKE + DELEGATED);
        bytes32[] memory proof = _pay();
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, operator, PAID + 1));
        distributor.claimToPool(TASK, operator, PAID + 1, proof);
        proof = _proof(_tree(TASK, earned), 3);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotPaidToPool.selector, members[3]));
        distributor.claimToPool(TASK, members[3], PAID, proof);
        distributor.claim(TASK, members[3], PAID, proof);
    }

    /// @dev Whoever claims for many pays neither the operator past its pool, nor loses the others' claims to it.
    function test_ClaimsForManyLeaveThePoolOut() public {
        _begin(STAKE + DELEGATED);
        _pay();
        bytes32[] memory nodes = _tree(TASK, earned);
        uint256 count = members.length;
        address[] memory accounts = new address[](count);
        uint256[] memory wanted = new uint256[](count);
        uint256 found;
        for (uint256 position = nodes.length; position-- >= count;) {
            for (uint256 i; i < count; ++i) {
                if (nodes[position] != _leaf(TASK, members[i], PAID)) continue;
                (accounts[found], wanted[found]) = (members[i], position);
                ++found;
            }
        }
        (bytes32[] memory proof, bool[] memory flags) = Merkle.proveMany(nodes, wanted);
        distributor.claimMany(TASK, accounts, earned, proof, flags);
        vm.assertEq(token.balanceOf(operator), 0);
        vm.assertEq(tasks.taskInfo(TASK).claimed, MEMBERS * PAID);
        vm.assertEq(distributor.claimed(TASK, operator), 0);
    }

    /// @dev Nothing that an operator does once it has joined takes its delegators' part of the task from them.
    function test_DodgeAfterJoining() public {
        _begin(STAKE + DELEGATED);
        vm.startPrank(operator);
        vault.setAcceptance(false);
        vault.setCommission(1_000); // counts when whoever dislikes it is out
        vault.unstake(STAKE);
        vm.stopPrank();
        bytes32[] memory proof = _pay();
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.PaidToPool.selector, operator));
        distributor.claim(TASK, operator, PAID, proof);
        distributor.claimToPool(TASK, operator, PAID, proof);
        vm.assertLe(PAID, vault.pendingRewards(operator, ALICE) + 1, "whose stake it is");
        // Even when the last delegator has left: what the task earned until then was paid before.
        vm.prank(ALICE);
        vault.undelegate(operator, DELEGATED);
        proof = _pay();
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.PaidToPool.selector, operator));
        distributor.claim(TASK, operator, 2 * PAID, proof);
        distributor.claimToPool(TASK, operator, 2 * PAID, proof);
        vm.assertEq(vault.pool(operator).operatorRewards, PAID);
    }

    /// @dev The operator cannot join with its own part first, to be paid alone, and then use its delegators' stake.
    function test_DodgeByJoiningWithOwnStake() public {
        _begin(STAKE); // its own stake would do, but delegators answer for it as well
        bytes32[] memory proof = _pay();
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.PaidToPool.selector, operator));
        distributor.claim(TASK, operator, PAID, proof);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskFull.selector, MEMBERS + 1));
        _join(TASK, operator, DELEGATED);
    }

    /// @dev A task that was joined without delegators stays the operator's, whoever delegates later.
    function test_LaterDelegatorsHaveNoPartOfEarlierTasks() public {
        vm.prank(ALICE);
        vault.undelegate(operator, DELEGATED);
        _begin(STAKE);
        vm.prank(ALICE);
        token.approve(address(vault), type(uint256).max);
        _delegate(operator, BOB, DELEGATED);
        bytes32[] memory proof = _pay();
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotPaidToPool.selector, operator));
        distributor.claimToPool(TASK, operator, PAID, proof);
        distributor.claim(TASK, operator, PAID, proof);
        vm.assertEq(token.balanceOf(operator), PAID);
        // And its slashes do not reach them: it cannot take out what it has locked there.
        Report memory report = _report(TASK);
        report.slashes = new Slash[](1);
        report.slashes[0] = Slash(INDEX, type(uint128).max);
        _settle(report);
        vm.assertEq(vault.delegation(operator, BOB).assets, DELEGATED);
    }

    /// @dev A stranger's least delegation only sends the rewards through the pool, where the operator has its part.
    function test_GriefingByATinyDelegation() public {
        vm.prank(ALICE);
        vault.undelegate(operator, DELEGATED);
        _delegate(operator, BOB, MINIMUM);
        _skipEpochs(1);
        _begin(STAKE);
        distributor.claimToPool(TASK, operator, PAID, _pay());
        uint256 part = uint256(PAID) * MINIMUM / (STAKE + MINIMUM);
        vm.assertLe(PAID - part, vault.pool(operator).operatorRewards, "all but the stranger's part");
        vm.prank(operator);
        vm.assertLe(PAID - part, vault.claimOperatorRewards(), "and it gets it");
    }

    /// @dev Stake that has thawed long ago stays within reach until the evidence window is over, the delegators' too.
    function test_NobodyEscapesBeforeTheWindowEnds() public {
        _begin(STAKE + DELEGATED);
        uint32 epoch = vault.currentEpoch();
        vm.prank(operator);
        vault.unstake(STAKE);
        vm.prank(ALICE);
        vault.undelegate(operator, DELEGATED);
        _skipEpochs(UNBONDING + 1);
        _finish(TASK);
        bytes memory late = bytes.concat(
            _signedBy(operator, settlement.messageDigest(TASK, 1, "seed", "acknowledgement", "first")),
            _signedBy(operator, settlement.messageDigest(TASK, 1, "seed", "acknowledgement", "second"))
        );
        vm.warp(tasks.releasableAt(TASK) - 1);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.EvidenceWindowOpen.selector, tasks.releasableAt(TASK)));
        tasks.release(TASK, operator);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, STAKE, 0));
        vm.prank(operator);
        vault.withdrawStake(epoch);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, DELEGATED, 0));
        vm.prank(ALICE);
        vault.withdraw(operator, epoch);

        settlement.slashEquivocation(TASK, operator, 1, "seed", "acknowledgement", "first", "second", late);
        vm.warp(tasks.releasableAt(TASK));
        vm.prank(ALICE); // whoever waits may do it
        tasks.release(TASK, operator);
        vm.prank(operator);
        vm.assertEq(vault.withdrawStake(epoch), 0); // half of all is more than its own
        vm.prank(ALICE);
        vm.assertEq(vault.withdraw(operator, epoch), (STAKE + DELEGATED) / 2);
        _checkHoldings(TASK, 0);
    }
}

/// @notice The same with an activation delay: a root pays a pool no sooner than an account.
contract DelayedDelegationTest is DelegationTest {
    uint64 private constant DELAY = 600;

    function _activationDelay() internal pure override returns (uint64) {
        return DELAY;
    }

    /// @dev So that every test above runs on the roots it expects.
    function _settle(Report memory report) internal override {
        super._settle(report);
        if (!waits) vm.warp(block.timestamp + DELAY);
    }

    bool private waits;

    function test_PoolWaitsForTheRootToo() public {
        _begin(STAKE + DELEGATED);
        waits = true;
        bytes32[] memory proof = _pay();
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, operator, PAID));
        distributor.claimToPool(TASK, operator, PAID, proof);
        vm.warp(block.timestamp + DELAY);
        distributor.claimToPool(TASK, operator, PAID, proof);
        vm.assertEq(distributor.accountOf(TASK).claimed, PAID);
    }
}
