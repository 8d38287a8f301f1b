// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";
import {Merkle} from "./Merkle.sol";
import {Committees} from "../src/Committees.sol";
import {EpochSettlement} from "../src/EpochSettlement.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Change, Membership} from "../src/libraries/Membership.sol";
import {Report} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice A task whose members may change, and helpers that settle with the committee of slots given as a list.
abstract contract MembersFixture is Fixture {
    uint256 internal constant SEATS = 7; // the first three of four

    address internal newcomer;

    function setUp() public virtual override {
        super.setUp();
        newcomer = _newcomer(50);
    }

    function _newcomer(uint256 key) internal returns (address account) {
        account = vm.addr(key);
        keys[account] = key;
        _enrol(account, WALLET);
    }

    function _openTerms() internal view returns (Terms memory terms) {
        terms = _terms();
        terms.maxMembers = 12;
        terms.numEpochs = 10;
        terms.maxSkips = 5;
    }

    function _begin(Terms memory terms) internal {
        _create(terms);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], terms.minStake);
        }
        vm.prank(CREATOR);
        tasks.start(TASK);
    }

    function _resign(address member) internal {
        vm.prank(member);
        tasks.resign(TASK);
    }

    function _abandon() internal {
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.warp(block.timestamp + 2 * DEADLINE + 1);
        settlement.abandon(TASK, info.lastSettled + 1);
    }

    /// @dev Owners of all slots.
    function _owners() internal view returns (address[] memory) {
        uint256[] memory slots = new uint256[](tasks.taskInfo(TASK).numSlots);
        for (uint256 i; i < slots.length; ++i) {
            slots[i] = i;
        }
        return tasks.slotOwners(TASK, slots);
    }

    /// @dev Voters of the next epoch, if its slots have these owners.
    function _voters(address[] memory owners) internal view returns (address[] memory voters) {
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        uint256[] memory slots =
            settlement.drawSeats(info.seed, TASK, info.lastSettled + 1, uint32(owners.length), VOTERS);
        voters = new address[](VOTERS);
        for (uint256 seat; seat < VOTERS; ++seat) {
            voters[seat] = owners[slots[seat]];
        }
    }

    function _signAs(address[] memory voters, bytes32 digest, uint256 seats)
        internal
        view
        returns (bytes memory signatures)
    {
        for (uint256 seat; seat < VOTERS; ++seat) {
            if ((seats >> seat) & 1 == 1) signatures = bytes.concat(signatures, _signedBy(voters[seat], digest));
        }
    }

    /// @dev Settles the next epoch, whose slots have these owners; returns its report and its voters.
    function _settleWith(address[] memory owners) internal returns (Report memory report, address[] memory voters) {
        report = _report(TASK);
        voters = _voters(owners);
        settlement.settle(report, SEATS, _signAs(voters, settlement.reportDigest(report), SEATS));
        vm.assertEq(keccak256(abi.encode(_owners())), keccak256(abi.encode(owners)));
    }

    function _with(address[] memory owners, address added) internal pure returns (address[] memory more) {
        more = new address[](owners.length + 1);
        for (uint256 i; i < owners.length; ++i) {
            more[i] = owners[i];
        }
        more[owners.length] = added;
    }

    /// @dev The last of the owners stands at `slot` instead.
    function _without(address[] memory owners, uint256 slot) internal pure returns (address[] memory less) {
        less = new address[](owners.length - 1);
        for (uint256 i; i < less.length; ++i) {
            less[i] = i == slot ? owners[less.length] : owners[i];
        }
    }
}

/// @notice Members that join and leave while their task runs. Settlement may lag one epoch: a change that is asked for
/// before epoch 1 is settled counts from epoch 4 on.
contract MembersTest is MembersFixture {
    uint256 private constant FIRST = 4;

    function test_JoinCountsFromItsEpochOn() public {
        _begin(_openTerms());
        vm.prank(newcomer);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.ChangeAnnounced(TASK, newcomer, MEMBERS, false, FIRST);
        tasks.join(TASK, STAKE, keccak256("tip"), digests[TASK]);
        vm.assertEq(tasks.memberAt(TASK, MEMBERS).account, newcomer);
        vm.assertEq(tasks.memberAt(TASK, MEMBERS).stake, STAKE);
        vm.assertEq(vault.lockedStake(TASK, newcomer), STAKE);
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertEq(info.numMembers, MEMBERS + 1);
        vm.assertEq(info.numSlots, MEMBERS);
        vm.assertEq(info.numChanges, 1);
        vm.assertEq(tasks.changesOf(TASK, 0, 1)[0].epoch, FIRST);
        vm.assertEq(tasks.changesOf(TASK, 0, 1)[0].member, MEMBERS);

        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyMember.selector, newcomer));
        _join(TASK, newcomer, STAKE);

        _settleWith(members);
        _settleWith(members);
        _settleWith(members);
        vm.assertEq(tasks.taskInfo(TASK).numApplied, 0);
        _settleWith(_with(members, newcomer));
        info = tasks.taskInfo(TASK);
        vm.assertEq(info.numApplied, 1);
        vm.assertEq(settlement.headOf(TASK).clock.numSlots, MEMBERS + 1);
        vm.assertTrue(!settlement.headOf(TASK).clock.changing, "no change waits");
        vm.assertEq(settlement.committee(TASK).length, VOTERS);
        _settle(_report(TASK));
    }

    function test_ChangesInPages() public {
        _begin(_openTerms());
        for (uint256 i; i < 3; ++i) {
            _resign(members[i]);
        }
        for (uint256 from; from <= 3; ++from) {
            for (uint256 to = from; to <= 3; ++to) {
                Change[] memory page = tasks.changesOf(TASK, from, to);
                vm.assertEq(page.length, to - from);
                for (uint256 i; i < page.length; ++i) {
                    Change memory expected = Change(uint32(from + i), 1, uint32(FIRST), true);
                    vm.assertEq(keccak256(abi.encode(page[i])), keccak256(abi.encode(expected)));
                }
            }
        }
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnknownChange.selector, 3));
        tasks.changesOf(TASK, 2, 4);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        tasks.changesOf(TASK, 1, 0);
    }

    function test_LeaverIsFilledWithTheLast() public {
        _begin(_openTerms());
        vm.expectEmit(address(tasks));
        emit TaskRegistry.ChangeAnnounced(TASK, members[2], 2, true, FIRST);
        _resign(members[2]);
        vm.assertTrue(tasks.memberAt(TASK, 2).leaving, "asked to leave");
        _settleWith(members);
        _settleWith(members);
        _settleWith(members);
        vm.assertEq(tasks.memberAt(TASK, 2).leftAt, 0);
        vm.warp(block.timestamp + 7);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.Left(TASK, members[2]);
        _settleWith(_without(members, 2));
        vm.assertEq(tasks.memberAt(TASK, 2).leftAt, block.timestamp);
        uint256[] memory gone = new uint256[](1);
        gone[0] = MEMBERS - 1;
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnknownSlot.selector, MEMBERS - 1));
        tasks.slotOwners(TASK, gone);
        // Who was moved leaves from where it stands now.
        _resign(members[7]);
        _resign(members[6]);
        _settleWith(_without(members, 2));
        _settleWith(_without(members, 2));
        _settleWith(_without(members, 2));
        _settleWith(_without(_without(_without(members, 2), 2), 2));
        vm.assertEq(tasks.taskInfo(TASK).numSlots, 5);
    }

    /// @dev Members with several slots, some of which have moved and some not.
    function test_LeaverWithSeveralSlots() public {
        Terms memory terms = _openTerms();
        _create(terms);
        uint8[5] memory counts = [3, 2, 3, 1, 2];
        for (uint256 i; i < 5; ++i) {
            _join(TASK, members[i], counts[i] * STAKE);
        }
        vm.prank(CREATOR);
        tasks.start(TASK);
        _resign(members[1]); // slots 4 and 3: the last ones, both of member 4, move there
        _resign(members[4]); // slots 4 and 3 again: those of members 3 and 2 that are the last ones now
        _settleWithSlots("00011222344");
        _settleWithSlots("00011222344");
        _settleWithSlots("00011222344");
        _settleWithSlots("0002322");
        _resign(members[0]); // would leave 3222: one slot too few for four voters and a proposer
        _settleWithSlots("0002322");
        _settleWithSlots("0002322");
        (, uint256 numSlots) = tasks.dueAt(TASK, 8);
        vm.assertEq(numSlots, 4);
        _settleWithSlots("0002322");
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
    }

    function _settleWithSlots(bytes memory slots) private {
        address[] memory owners = new address[](slots.length);
        for (uint256 i; i < slots.length; ++i) {
            owners[i] = members[uint8(slots[i]) - 48];
        }
        _settleWith(owners);
    }

    /// @dev A change is due at the second epoch after the last one that may be in training, for any lag of the settlement:
    /// nobody who asks for it knows the seed.
    function testFuzz_ChangesAreDueAfterWhatMayBeInTraining(uint32 maxUnsettled, uint8 settled) public {
        Terms memory terms = _openTerms();
        terms.maxUnsettled = uint32(bound(maxUnsettled, 0, 12));
        settled %= 6;
        _begin(terms);
        for (uint256 i; i < settled; ++i) {
            _settle(_report(TASK));
        }
        uint256 epoch = uint256(settled) + terms.maxUnsettled + 3;
        bool late = epoch > terms.numEpochs;
        bytes memory refusal = abi.encodeWithSelector(TaskRegistry.TooLate.selector, epoch, terms.numEpochs);
        if (late) vm.expectRevert(refusal);
        _join(TASK, newcomer, STAKE);
        if (late) vm.expectRevert(refusal);
        _resign(members[0]);
        if (late) return;
        while (tasks.taskInfo(TASK).lastSettled + 1 < epoch) {
            vm.assertEq(tasks.taskInfo(TASK).numApplied, 0);
            _settleWith(members);
        }
        _settleWith(_without(_with(members, newcomer), 0));
        vm.assertEq(tasks.taskInfo(TASK).numApplied, 2);
    }

    function test_WhoMayAskForWhat() public {
        Terms memory terms = _openTerms();
        terms.maxMembers = MEMBERS;
        _create(terms);
        _join(TASK, members[0], STAKE);
        bytes4 wrong = TaskRegistry.WrongStatus.selector;
        vm.expectRevert(abi.encodeWithSelector(wrong, TaskRegistry.Status.Running, TaskRegistry.Status.Joining));
        _resign(members[0]);
        for (uint256 i = 1; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        tasks.start(TASK);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskFull.selector, MEMBERS));
        _join(TASK, newcomer, STAKE);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NotMember.selector, newcomer));
        _resign(newcomer);
        _resign(members[0]);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyLeaving.selector, members[0]));
        _resign(members[0]);
        // Its place is free once it is out, for anybody but itself.
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskFull.selector, MEMBERS));
        _join(TASK, newcomer, STAKE);
        address[] memory rest = _without(members, 0);
        _settleWith(members);
        _settleWith(members);
        _settleWith(members);
        _settleWith(rest);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyMember.selector, members[0]));
        _join(TASK, members[0], STAKE);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.InsufficientStake.selector, STAKE, STAKE - 1));
        _join(TASK, newcomer, STAKE - 1);
        _join(TASK, newcomer, STAKE);
        _settleWith(rest);
        _settleWith(rest);
        _settleWith(rest);
        _settleWith(_with(rest, newcomer));
    }

    /// @dev A task that has not started holds nobody: the stake is free at once, and so is the place.
    function test_CancelJoinFreesStakeAndPlace() public {
        Terms memory terms = _openTerms();
        (terms.maxMembers, terms.minMembers) = (MEMBERS, MEMBERS);
        _create(terms);
        uint8[8] memory counts = [2, 1, 3, 1, 1, 1, 1, 1];
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], counts[i] * STAKE);
        }
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskFull.selector, MEMBERS));
        _join(TASK, newcomer, STAKE);
        vm.warp(block.timestamp + 7);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.Left(TASK, members[0]);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.Released(TASK, members[0], 2 * STAKE);
        vm.prank(members[0]);
        tasks.cancelJoin(TASK);
        vm.assertEq(vault.lockable(members[0], CREATOR), WALLET);
        TaskRegistry.Member memory gone = tasks.memberAt(TASK, 0);
        vm.assertEq(gone.stake, 0);
        vm.assertTrue(gone.leaving, "it leaves");
        vm.assertEq(gone.leftAt, block.timestamp);
        vm.assertEq(tasks.taskInfo(TASK).numSlots, 9);
        vm.assertEq(tasks.taskInfo(TASK).numApplied, 1);
        _ownersAre("671222345"); // slots 1 and 0, from the last on, go to those at the end
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyLeaving.selector, members[0]));
        vm.prank(members[0]);
        tasks.cancelJoin(TASK);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyMember.selector, members[0]));
        _join(TASK, members[0], STAKE);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NotMember.selector, newcomer));
        vm.prank(newcomer);
        tasks.cancelJoin(TASK);
        vm.startPrank(CREATOR);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NotEnoughMembers.selector, MEMBERS - 1, 9));
        tasks.start(TASK);
        vm.stopPrank();
        _join(TASK, newcomer, 2 * STAKE);
        vm.assertEq(tasks.changesOf(TASK, 1, 2)[0].slots, 2);
        vm.assertEq(tasks.changesOf(TASK, 1, 2)[0].member, MEMBERS);
        vm.assertEq(tasks.changesOf(TASK, 1, 2)[0].epoch, 0);
        address second = _newcomer(51);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskFull.selector, MEMBERS));
        _join(TASK, second, STAKE);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.Started(TASK, SEED, MEMBERS, 11);
        vm.prank(STRANGER); // it is full again
        tasks.start(TASK);
        vm.expectRevert(
            abi.encodeWithSelector(
                TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Joining, TaskRegistry.Status.Running
            )
        );
        vm.prank(members[1]);
        tasks.cancelJoin(TASK);
        vm.warp(block.timestamp + EVIDENCE_WINDOW);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NothingToRelease.selector, members[0]));
        tasks.release(TASK, members[0]);
        _settle(_report(TASK));
    }

    function _ownersAre(bytes memory slots) private view {
        address[] memory owners = _owners();
        vm.assertEq(owners.length, slots.length);
        for (uint256 i; i < slots.length; ++i) {
            vm.assertEq(owners[i], members[uint8(slots[i]) - 48]);
        }
    }

    /// @dev A task that too many left closes, with everything back, when the time to join is over.
    function test_CancelledTaskClosesWithRefund() public {
        uint256 before = token.balanceOf(CREATOR);
        _create(_openTerms());
        for (uint256 i; i < 5; ++i) {
            _join(TASK, members[i], STAKE);
        }
        vm.prank(members[4]);
        tasks.cancelJoin(TASK);
        vm.warp(block.timestamp + 1000);
        vm.prank(members[3]);
        tasks.cancelJoin(TASK); // also when the time is over and nobody has started it
        tasks.start(TASK);
        vm.assertEq(token.balanceOf(CREATOR), before);
        for (uint256 i; i < 3; ++i) {
            tasks.release(TASK, members[i]);
        }
        for (uint256 i; i < 5; ++i) {
            vm.assertEq(vault.lockable(members[i], CREATOR), WALLET);
        }
    }

    function test_OnlyTheOtherContractTellsOfChanges() public {
        _begin(_openTerms());
        vm.expectRevert(abi.encodeWithSelector(EpochSettlement.Unauthorized.selector, address(this)));
        settlement.expectChange(TASK);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.Unauthorized.selector, address(this)));
        tasks.applyChanges(TASK, 1);
    }

    /// @dev The seats of the last report are those of its own epoch, whatever is due next and however often that is given up.
    function test_LastReportKeepsItsSeats() public {
        _begin(_openTerms());
        for (uint256 i; i < 4; ++i) {
            _resign(members[i]);
        }
        _join(TASK, newcomer, STAKE);
        _settleWith(members);
        _settleWith(members);
        (Report memory report, address[] memory voters) = _settleWith(members);
        vm.expectRevert(abi.encodeWithSelector(Committees.ChangesDue.selector, TASK, FIRST));
        settlement.committee(TASK);
        _abandon();
        _abandon();
        settlement.challengeAbsence(report, 3);
        vm.assertEq(settlement.challengeOf(TASK, 3, 3).owner, voters[3]);
        address[] memory owners = new address[](5);
        // 0 1 2 3 4 5 6 7, then 7 1 2 3 4 5 6, 7 6 2 3 4 5, 7 6 5 3 4, 7 6 5 4, and the newcomer.
        (owners[0], owners[1], owners[2], owners[3], owners[4]) =
        (members[7], members[6], members[5], members[4], newcomer);
        _settleWith(owners);
        vm.assertEq(tasks.taskInfo(TASK).lastSettled, 6);
    }

    /// @dev A member that left answers with its stake until the time for evidence is over; then it gets the rest, and keeps
    /// what it earned.
    function test_LeaverAnswersThenIsPaid() public {
        _begin(_openTerms());
        address leaver = members[2];
        _resign(leaver);
        vm.expectRevert(
            abi.encodeWithSelector(
                TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Closed, TaskRegistry.Status.Running
            )
        );
        tasks.release(TASK, leaver);
        Report memory report = _report(TASK);
        uint256[] memory earned = new uint256[](MEMBERS);
        earned[2] = 5 ether;
        bytes32[] memory nodes = _tree(TASK, earned);
        (report.rewardsRoot, report.rewardsTotal) = (nodes[0], 5 ether);
        _settle(report);
        _settleWith(members);
        _settleWith(members);
        _settleWith(_without(members, 2));

        uint256 until = block.timestamp + EVIDENCE_WINDOW;
        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.EvidenceWindowOpen.selector, until));
        tasks.release(TASK, leaver);
        Report memory other = abi.decode(abi.encode(report), (Report));
        other.rewardsTotal += 1;
        bytes memory signatures = bytes.concat(
            _signedBy(leaver, settlement.reportDigest(report)), _signedBy(leaver, settlement.reportDigest(other))
        );
        settlement.slashReportEquivocation(leaver, report, other, signatures);
        report = _report(TASK);
        report.slashes = _slashes(2, STAKE / 4);
        _settle(report);
        vm.warp(until);
        vm.assertEq(vault.lockable(leaver, CREATOR), WALLET - STAKE);
        tasks.release(TASK, leaver);
        vm.assertEq(vault.lockable(leaver, CREATOR), WALLET - STAKE + STAKE / 4);
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Running));
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NothingToRelease.selector, leaver));
        tasks.release(TASK, leaver);
        distributor.claim(TASK, leaver, 5 ether, Merkle.prove(nodes, _leaf(TASK, leaver, 5 ether)));
        vm.assertEq(token.balanceOf(leaver), 5 ether);
    }

    /// @dev A seat that is challenged at the last moment is slashed in time, though its owner has left.
    function test_AbsentLeaverIsSlashed() public {
        _begin(_openTerms());
        _settleWith(members);
        (Report memory report, address[] memory voters) = _settleWith(members);
        address leaver = voters[3];
        _resign(leaver);
        uint256 index = tasks.indexOf(TASK, leaver);
        settlement.challengeAbsence(report, 3);
        _settleWith(members);
        _settleWith(members);
        _settleWith(members);
        _settleWith(_without(members, index));
        vm.warp(block.timestamp + RESPONSE_WINDOW + 1);
        settlement.slashAbsent(TASK, report.epoch, 3);
        vm.assertEq(tasks.memberAt(TASK, index).stake, STAKE - STAKE / 100);
    }

    /// @dev After the end everybody waits for the evidence window, who left before it for its own.
    function test_ClosedTaskReleasesEverybody() public {
        Terms memory terms = _openTerms();
        terms.numEpochs = 5;
        _begin(terms);
        _resign(members[2]);
        _join(TASK, newcomer, STAKE);
        _settleWith(members);
        _settleWith(members);
        _settleWith(members);
        uint256 left = block.timestamp;
        _settleWith(_with(_without(members, 2), newcomer));
        vm.warp(left + EVIDENCE_WINDOW - 1);
        _settleWith(_with(_without(members, 2), newcomer));
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
        vm.warp(left + EVIDENCE_WINDOW);
        tasks.release(TASK, members[2]);
        uint256 until = tasks.releasableAt(TASK);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.EvidenceWindowOpen.selector, until));
        tasks.release(TASK, newcomer);
        vm.warp(until);
        tasks.release(TASK, newcomer);
        vm.assertEq(vault.lockable(members[2], CREATOR), WALLET);
        vm.assertEq(vault.lockable(newcomer, CREATOR), WALLET);
    }

    /// @dev With four voters, five slots are enough and four are not.
    function test_TooFewSlotsCloseAndRefund() public {
        uint256 before = token.balanceOf(CREATOR);
        _begin(_openTerms());
        address[] memory five = members;
        for (uint256 i = 7; i > 4; --i) {
            _resign(members[i]);
            five = _without(five, i);
        }
        _settleWith(members);
        _resign(members[4]); // a refusal would hold it for ever
        _settleWith(members);
        _settleWith(members);
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Running));
        Report memory report = _report(TASK);
        report.rewardsTotal = 100 ether;
        report.rewardsRoot = keccak256("root");
        settlement.settle(report, SEATS, _signAs(_voters(five), settlement.reportDigest(report), SEATS));
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
        vm.assertEq(tasks.taskInfo(TASK).lastSettled, 4);
        vm.assertEq(token.balanceOf(CREATOR), before - 100 ether);
        vm.expectRevert(abi.encodeWithSelector(Committees.NotRunning.selector, TASK));
        settlement.abandon(TASK, 5);
        _passWindow();
        for (uint256 i; i < MEMBERS; ++i) {
            tasks.release(TASK, members[i]);
            vm.assertEq(vault.lockable(members[i], CREATOR), WALLET);
        }
    }

    function test_AbandonBeforeTooFewSlotsClosesToo() public {
        _begin(_openTerms());
        for (uint256 i; i < 4; ++i) {
            _resign(members[i]);
        }
        _settleWith(members);
        _settleWith(members);
        _abandon();
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
        vm.assertEq(tasks.taskInfo(TASK).lastSettled, 3);
    }

    /// @dev At most so many slots change in one settlement, in order; what is behind waits, and is not forgotten.
    function test_WorkOfOneSettlementIsBounded() public {
        Terms memory terms = _openTerms();
        terms.maxSlots = 256;
        terms.minStake = 1 ether;
        terms.maxMembers = 20;
        _begin(terms);
        address[4] memory big = [_newcomer(51), _newcomer(52), _newcomer(53), _newcomer(54)];
        uint128[4] memory slots = [uint128(256), 200, 57, 56];
        for (uint256 i; i < 4; ++i) {
            _join(TASK, big[i], slots[i] * 1 ether);
        }
        _settle(_report(TASK));
        _settle(_report(TASK));
        _settle(_report(TASK));
        uint16[3] memory then = [264, 464, 577]; // 200 and 57 are one slot too many for one settlement
        for (uint256 i; i < 3; ++i) {
            (, uint256 numSlots) = tasks.dueAt(TASK, FIRST + i);
            vm.assertEq(numSlots, then[i]);
            address[] memory owners = new address[](then[i]);
            for (uint256 slot; slot < then[i]; ++slot) {
                owners[slot] = slot < 8 ? members[slot] : big[slot < 264 ? 0 : slot < 464 ? 1 : slot < 521 ? 2 : 3];
            }
            vm.assertTrue(settlement.headOf(TASK).clock.changing, "changes wait");
            _settleWith(owners);
        }
        vm.assertTrue(!settlement.headOf(TASK).clock.changing, "no change waits");
        vm.assertEq(Membership.MAX_CHANGED_SLOTS, 256);
    }
}

/// @notice Corrections of a disabled root, when the members have changed since.
contract MembersCorrectionTest is MembersFixture {
    function _activationDelay() internal pure override returns (uint64) {
        return 1 hours;
    }

    /// @dev The committee of the last report corrects it, also after the epochs for which some of its members leave.
    function test_LeaversCorrectTheirReport() public {
        _begin(_openTerms());
        for (uint256 i; i < 3; ++i) {
            _resign(members[i]);
        }
        _settleWith(members);
        Report memory report = _report(TASK);
        (report.rewardsRoot, report.rewardsTotal) = (keccak256("root"), 10 ether);
        address[] memory voters = _voters(members);
        settlement.settle(report, SEATS, _signAs(voters, settlement.reportDigest(report), SEATS));
        vm.prank(GUARDIAN);
        distributor.disable(TASK, report.rewardsRoot);
        _abandon();
        _abandon();
        bytes32 digest =
            settlement.correctionDigest(settlement.reportHash(report), report.rewardsRoot, "better", 9 ether);
        settlement.correct(report, "better", 9 ether, SEATS, _signAs(voters, digest, SEATS));
        vm.assertEq(distributor.accountOf(TASK).committed, 9 ether);
        _settleWith(_without(_without(_without(members, 0), 1), 2));
    }
}
