// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MembersFixture} from "./Members.t.sol";
import {Merkle} from "./Merkle.sol";
import {Misconduct} from "../src/Misconduct.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report} from "../src/libraries/Reports.sol";
import {TaskTerms, Terms} from "../src/libraries/TaskTerms.sol";

/// @notice A contest of eight members, which accounts without slots may enter.
abstract contract NodesFixture is MembersFixture {
    uint96 internal constant NODE_STAKE = 40 ether; // less than a slot costs
    uint32 internal constant INDEX = MEMBERS; // of the first node

    address internal node;

    function setUp() public override {
        super.setUp();
        node = _newcomer(70);
    }

    function _contest(bytes32 seed, Terms memory terms, uint96 nodeStake) internal returns (bytes32 task) {
        vm.prank(CREATOR);
        task = tasks.createContest(terms, seed, nodeStake);
        digests[task] = keccak256(abi.encode(keccak256(abi.encode(CREATOR, terms)), nodeStake));
    }

    /// @dev A running contest of all members with one slot each.
    function _beginContest(Terms memory terms) internal {
        TASK = _contest(SEED, terms, NODE_STAKE);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], terms.minStake);
        }
        vm.prank(CREATOR);
        tasks.start(TASK);
    }

    function _enter(address account, uint128 amount) internal {
        vm.prank(account);
        tasks.enter(TASK, amount, digests[TASK]);
    }

    function _settleUntil(uint256 epoch) internal {
        while (tasks.taskInfo(TASK).lastSettled < epoch) {
            _settle(_report(TASK));
        }
    }

    function _expectStatus(TaskRegistry.Status expected, TaskRegistry.Status got) internal {
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.WrongStatus.selector, expected, got));
    }
}

contract NodesTest is NodesFixture {
    uint256 private constant FIRST = 4; // epoch from which a leave counts that is asked for in the first

    function test_NodeIsInAtOnceAndMovesNoSlot() public {
        _beginContest(_openTerms());
        address[] memory voters = settlement.committee(TASK);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.Entered(TASK, node, INDEX, NODE_STAKE);
        _enter(node, NODE_STAKE);
        TaskRegistry.Member memory entered = tasks.memberAt(TASK, INDEX);
        vm.assertEq(entered.account, node);
        vm.assertEq(entered.stake, NODE_STAKE);
        vm.assertEq(entered.slots, 0);
        vm.assertEq(entered.chainTip, 0);
        vm.assertEq(entered.leftAt, 0);
        vm.assertEq(vault.lockedStake(TASK, node), NODE_STAKE);
        vm.assertEq(tasks.indexOf(TASK, node), INDEX);
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertEq(info.numMembers, MEMBERS + 1);
        vm.assertEq(info.numNodes, 1);
        vm.assertEq(info.nodeStake, NODE_STAKE);
        vm.assertEq(info.numSlots, MEMBERS);
        vm.assertEq(info.numChanges, 0);
        vm.assertTrue(!settlement.headOf(TASK).clock.changing, "no settlement waits for a node");
        vm.assertEq(keccak256(abi.encode(settlement.committee(TASK))), keccak256(abi.encode(voters)));
        _settleWith(members);
        _settleWith(members);
    }

    function test_EntersWhileTheTaskRunsOnly() public {
        Terms memory terms = _openTerms();
        terms.fixedGenesis = false;
        TASK = keccak256("no task");
        _expectStatus(TaskRegistry.Status.Running, TaskRegistry.Status.None);
        _enter(node, NODE_STAKE);
        TASK = _contest(SEED, terms, NODE_STAKE);
        _expectStatus(TaskRegistry.Status.Running, TaskRegistry.Status.Joining);
        _enter(node, NODE_STAKE);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        vm.prank(CREATOR);
        tasks.start(TASK);
        _expectStatus(TaskRegistry.Status.Running, TaskRegistry.Status.Starting);
        _enter(node, NODE_STAKE);
        vm.roll(block.number + 2);
        tasks.open(TASK);
        _enter(node, NODE_STAKE);
        _settleUntil(terms.numEpochs - 1);
        _enter(newcomer, NODE_STAKE); // up to the last epoch: nothing waits for it
        _settleUntil(terms.numEpochs);
        address late = _newcomer(71);
        _expectStatus(TaskRegistry.Status.Running, TaskRegistry.Status.Closed);
        _enter(late, NODE_STAKE);
    }

    function test_OnlyContestsTakeNodes() public {
        _begin(_openTerms());
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NoNodes.selector, TASK));
        _enter(node, STAKE);
    }

    function test_AStrangersContestIsRefused() public {
        _beginContest(_openTerms());
        bytes32 meant = keccak256(abi.encode(digests[TASK], "another"));
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnexpectedTerms.selector, digests[TASK], meant));
        vm.prank(node);
        tasks.enter(TASK, NODE_STAKE, meant);
    }

    /// @dev Members expect the node's stake too: it decides about whom they serve beside.
    function test_IdentifierFollowsFromTheNodesStakeToo() public {
        Terms memory terms = _openTerms();
        bytes32 plain = _create(SEED, terms);
        bytes32 contest = _contest(SEED, terms, NODE_STAKE);
        bytes32 dearer = _contest(SEED, terms, NODE_STAKE + 1);
        vm.assertNotEq(plain, contest);
        vm.assertNotEq(contest, dearer);
        vm.assertEq(contest, keccak256(abi.encode(keccak256("flock_ray/task/2"), digests[contest], SEED)));
        vm.assertEq(tasks.taskInfo(plain).nodeStake, 0);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnexpectedTerms.selector, digests[contest], digests[plain]));
        vm.prank(members[0]);
        tasks.join(contest, STAKE, "tip", digests[plain]);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskExists.selector, contest));
        vm.prank(CREATOR);
        tasks.createContest(terms, SEED, NODE_STAKE);
        vm.expectRevert(abi.encodeWithSelector(TaskTerms.InvalidTerms.selector, "nodeStake"));
        tasks.createContest(terms, SEED, 0);
    }

    /// @dev Exactly the least stake and more, as far as it is free; nothing else decides.
    function testFuzz_NodeBringsItsOwnLeastStake(uint128 amount, uint96 least) public {
        least = uint96(bound(least, 1, 2 * WALLET));
        amount = uint128(bound(amount, 0, 2 * WALLET));
        TASK = _contest(SEED, _openTerms(), least);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        vm.prank(CREATOR);
        tasks.start(TASK);
        bool enters = amount >= least && amount <= WALLET;
        if (amount < least) {
            vm.expectRevert(abi.encodeWithSelector(TaskRegistry.InsufficientNodeStake.selector, least, amount));
        } else if (!enters) {
            vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, WALLET, amount));
        }
        _enter(node, amount);
        vm.assertEq(vault.lockedStake(TASK, node), enters ? amount : 0);
        vm.assertEq(tasks.taskInfo(TASK).numNodes, enters ? 1 : 0);
        vm.assertEq(vault.lockable(node, CREATOR), enters ? WALLET - amount : WALLET);
    }

    function test_OneRoleATask() public {
        Terms memory terms = _openTerms();
        TASK = _contest(SEED, terms, NODE_STAKE);
        _join(TASK, newcomer, STAKE);
        vm.prank(newcomer);
        tasks.cancelJoin(TASK);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        vm.prank(CREATOR);
        tasks.start(TASK);
        _enter(node, NODE_STAKE);
        address[3] memory known = [members[0], newcomer, node];
        for (uint256 i; i < known.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyMember.selector, known[i]));
            _enter(known[i], NODE_STAKE);
        }
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyMember.selector, node));
        _join(TASK, node, STAKE);
    }

    function test_NodesTakeNoPlaces() public {
        Terms memory terms = _openTerms();
        terms.maxMembers = MEMBERS + 1;
        _beginContest(terms);
        for (uint256 key = 80; key < 83; ++key) {
            _enter(_newcomer(key), NODE_STAKE);
        }
        _join(TASK, newcomer, STAKE);
        vm.assertEq(tasks.indexOf(TASK, newcomer), MEMBERS + 3);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskFull.selector, MEMBERS + 1));
        _join(TASK, node, STAKE);
        _enter(node, NODE_STAKE);
    }

    /// @dev Nodes hold no committee up, and do not keep a task going that its members leave.
    function test_OnlyMembersCountForTheQuorum() public {
        _beginContest(_openTerms());
        for (uint256 key = 80; key < 90; ++key) {
            _enter(_newcomer(key), NODE_STAKE);
        }
        for (uint256 i; i < MEMBERS - VOTERS; ++i) {
            _resign(members[i]);
        }
        _settleUntil(FIRST - 1);
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
        _passWindow();
        tasks.release(TASK, vm.addr(80));
        vm.assertEq(vault.lockedStake(TASK, vm.addr(80)), 0);
    }

    function test_ReportSlashesANodeByItsIndex() public {
        _beginContest(_openTerms());
        _enter(node, NODE_STAKE);
        Report memory report = _report(TASK);
        report.slashes = _slashes(INDEX, 30 ether);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.Slashed(TASK, 1, node, 30 ether, 0, 3 ether);
        _settle(report);
        vm.assertEq(tasks.memberAt(TASK, INDEX).stake, 10 ether);
        vm.assertEq(token.balanceOf(RELAYER), 3 ether);
        vm.assertEq(tasks.taskInfo(TASK).escrow, 27 ether);
        vm.assertEq(tasks.taskInfo(TASK).numChanges, 0); // it holds no slots that it could lose
        vm.assertTrue(!tasks.memberAt(TASK, INDEX).leaving, "a slash makes no node leave");
        report = _report(TASK);
        report.slashes = _slashes(INDEX, STAKE);
        _settle(report);
        vm.assertEq(tasks.memberAt(TASK, INDEX).stake, 0);
        vm.assertEq(vault.pool(node).own, WALLET - NODE_STAKE);
        _settleUntil(10);
        _passWindow();
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NothingToRelease.selector, node));
        tasks.release(TASK, node);
    }

    function test_NodeThatContradictsItselfIsSlashed() public {
        _beginContest(_openTerms());
        _enter(node, NODE_STAKE);
        bytes memory both = _both(node, "manifest");
        vm.prank(STRANGER);
        settlement.slashEquivocation(TASK, node, 1, SEED, "manifest", "one", "other", both);
        vm.assertEq(tasks.memberAt(TASK, INDEX).stake, NODE_STAKE / 2);
        vm.assertEq(token.balanceOf(STRANGER), NODE_STAKE / 20);
        bytes32 offence = keccak256(abi.encode(TASK, node, uint64(1)));
        both = _both(node, "commitment");
        vm.expectRevert(abi.encodeWithSelector(Misconduct.AlreadyPunished.selector, offence));
        settlement.slashEquivocation(TASK, node, 1, SEED, "commitment", "one", "other", both);
    }

    function test_ValidatorThatContradictsItselfIsSlashed() public {
        _beginContest(_openTerms());
        string[4] memory kinds = ["gate", "rung_1_commitment", "rung_3_ballot", "final_rescore"];
        for (uint32 i; i < kinds.length; ++i) {
            uint256 stake = tasks.memberAt(TASK, i).stake;
            bytes memory both = _both(members[i], kinds[i]);
            settlement.slashEquivocation(TASK, members[i], 1, SEED, kinds[i], "one", "other", both);
            vm.assertEq(tasks.memberAt(TASK, i).stake, stake / 2);
        }
    }

    function _both(address account, string memory kind) private view returns (bytes memory) {
        return bytes.concat(
            _signedBy(account, settlement.messageDigest(TASK, 1, SEED, kind, "one")),
            _signedBy(account, settlement.messageDigest(TASK, 1, SEED, kind, "other"))
        );
    }

    function test_StakeIsReleasedAnEvidenceWindowAfterTheEnd() public {
        _beginContest(_openTerms());
        _enter(node, NODE_STAKE);
        _expectStatus(TaskRegistry.Status.Closed, TaskRegistry.Status.Running);
        tasks.release(TASK, node);
        _settleUntil(10);
        uint256 from = block.timestamp + EVIDENCE_WINDOW;
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.EvidenceWindowOpen.selector, from));
        tasks.release(TASK, node);
        _passWindow();
        tasks.release(TASK, node);
        vm.assertEq(vault.lockable(node, CREATOR), WALLET);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NothingToRelease.selector, node));
        tasks.release(TASK, node);
    }

    function test_NodeLeavesWhenItsLastEpochIsOver() public {
        Terms memory terms = _openTerms();
        terms.maxMembers = MEMBERS;
        _beginContest(terms);
        _enter(node, NODE_STAKE);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.ChangeAnnounced(TASK, node, INDEX, true, FIRST);
        _resign(node);
        vm.assertEq(tasks.leavesFrom(TASK, node), FIRST);
        vm.assertTrue(tasks.memberAt(TASK, INDEX).leaving, "it asked to leave");
        vm.assertEq(tasks.numChanges(TASK), 0); // the relayer pays nothing for it
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyLeaving.selector, node));
        _resign(node);
        _settleUntil(FIRST - 1);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.StillTakingPart.selector, FIRST));
        tasks.release(TASK, node);
        _settleUntil(FIRST);

        vm.expectEmit(address(tasks));
        emit TaskRegistry.Left(TASK, node);
        tasks.release(TASK, node);
        uint256 left = block.timestamp;
        vm.assertEq(tasks.memberAt(TASK, INDEX).leftAt, left);
        vm.assertEq(vault.lockedStake(TASK, node), NODE_STAKE);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskFull.selector, MEMBERS));
        _join(TASK, newcomer, STAKE); // a node that left frees no place
        vm.warp(left + EVIDENCE_WINDOW - 1);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.EvidenceWindowOpen.selector, left + EVIDENCE_WINDOW));
        tasks.release(TASK, node);
        Report memory report = _report(TASK);
        report.slashes = _slashes(INDEX, 10 ether); // it answers until then
        _settle(report);
        vm.warp(left + EVIDENCE_WINDOW);
        tasks.release(TASK, node);
        vm.assertEq(vault.lockable(node, CREATOR), WALLET - 10 ether);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyMember.selector, node));
        _enter(node, NODE_STAKE);
    }

    function test_LeaveAfterTheLastEpochIsRefused() public {
        _beginContest(_openTerms());
        _enter(node, NODE_STAKE);
        _settleUntil(7);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TooLate.selector, 11, 10));
        _resign(node);
        vm.assertTrue(!tasks.memberAt(TASK, INDEX).leaving, "nothing of it is left");
    }

    /// @dev Who asked to leave and was not let go before the end waits as all others do.
    function test_TheEndLetsEverybodyGo() public {
        _beginContest(_openTerms());
        _enter(node, NODE_STAKE);
        _resign(node);
        _settleUntil(10);
        vm.expectRevert(
            abi.encodeWithSelector(TaskRegistry.EvidenceWindowOpen.selector, block.timestamp + EVIDENCE_WINDOW)
        );
        tasks.release(TASK, node);
        _passWindow();
        tasks.release(TASK, node);
        vm.assertEq(vault.lockedStake(TASK, node), 0);
    }

    function test_NodeClaimsWhatAReportPays() public {
        _beginContest(_openTerms());
        _enter(node, NODE_STAKE);
        Report memory report = _report(TASK);
        bytes32[] memory leaves = new bytes32[](2);
        (leaves[0], leaves[1]) = (_leaf(TASK, node, 5 ether), _leaf(TASK, members[0], 1 ether));
        bytes32[] memory tree = Merkle.build(leaves);
        (report.rewardsRoot, report.rewardsTotal) = (tree[0], 6 ether);
        _settle(report);
        distributor.claim(TASK, node, 5 ether, Merkle.prove(tree, leaves[0]));
        vm.assertEq(token.balanceOf(node), 5 ether);
    }

    /// @dev As a member: whose delegators answer for the contest is paid through its pool, for good.
    function test_NodeWithDelegatorsIsPaidThroughItsPool() public {
        address operator = vm.addr(99);
        _enrol(operator, 20 ether);
        vm.prank(operator);
        vault.addCreator(CREATOR);
        _delegate(operator, address(0xA1), 60 ether);
        vm.warp(block.timestamp + (UNBONDING + 1) * VAULT_EPOCH);
        _beginContest(_openTerms());
        _enter(operator, 80 ether);
        vm.assertEq(tasks.memberAt(TASK, INDEX).delegated, 60 ether);
        vm.assertTrue(distributor.paidToPool(TASK, operator), "paid through its pool");
        Report memory report = _report(TASK);
        report.rewardsRoot = _leaf(TASK, operator, 8 ether);
        report.rewardsTotal = 8 ether;
        report.slashes = _slashes(INDEX, 40 ether);
        _settle(report);
        bytes32[] memory proof = new bytes32[](0);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.PaidToPool.selector, operator));
        distributor.claim(TASK, operator, 8 ether, proof);
        distributor.claimToPool(TASK, operator, 8 ether, proof);
        // own stake went first, so what is left of the pool is its delegator's
        vm.assertEq(vault.pendingRewards(operator, address(0xA1)), 8 ether - 1); // rounded down
        vm.assertEq(vault.pool(operator).own, 0);
        vm.assertEq(token.balanceOf(SINK), 20 ether);
        vm.assertTrue(!distributor.paidToPool(TASK, node), "nobody else is");
    }
}
