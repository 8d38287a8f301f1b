// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AuditBase} from "./AuditBase.sol";
import {Misconduct} from "../src/Misconduct.sol";
import {EpochSettlement} from "../src/EpochSettlement.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report, Slash} from "../src/libraries/Reports.sol";
import {Roles} from "../src/libraries/Roles.sol";
import {TaskTerms, Terms} from "../src/libraries/TaskTerms.sol";

/// @notice Finding 2: an identifier was anybody's, so that a stranger could take the one that members had agreed on.
contract AuditIdentifierTest is AuditBase {
    function test_2_StrangerTakesNobodysIdentifier() public {
        bytes32 agreed = keccak256(abi.encode(CREATOR, _terms()));
        bytes32 id = keccak256(abi.encode(keccak256("flock_ray/task/2"), agreed, SEED));
        Terms memory empty = _terms();
        empty.pool = 0;
        vm.startPrank(STRANGER);
        vm.assertNotEq(tasks.createTask(empty, SEED), id);
        vm.stopPrank();
        _create(_terms());
        vm.assertEq(TASK, id);
    }

    /// @dev Whoever is led to another task does not lock its stake there.
    function test_2_MembersJoinWhatTheyExpect() public {
        bytes32 agreed = keccak256(abi.encode(CREATOR, _terms()));
        Terms memory other = _terms();
        other.termsHash = keccak256("other terms");
        _create(other);
        vm.startPrank(members[0]);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnexpectedTerms.selector, digests[TASK], agreed));
        tasks.join(TASK, STAKE, "tip", agreed);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnexpectedTerms.selector, digests[TASK], 0));
        tasks.join(TASK, STAKE, "tip", 0);
        vm.stopPrank();
        other = _terms();
        other.pool = 0; // the same but for the creator, and what it can pay
        vm.prank(STRANGER);
        bytes32 foreign = tasks.createTask(other, SEED);
        bytes32 expected = keccak256(abi.encode(CREATOR, other));
        bytes32 there = keccak256(abi.encode(STRANGER, other));
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnexpectedTerms.selector, there, expected));
        vm.prank(members[0]);
        tasks.join(foreign, STAKE, "tip", expected);
        vm.assertEq(vault.lockable(members[0], CREATOR), WALLET);
    }
}

/// @notice Starts a task in the very block in which it takes the last place, when what it can see there suits it.
contract Starter {
    TaskRegistry private immutable tasks;

    constructor(TaskRegistry tasks_) {
        tasks = tasks_;
    }

    function attempt(bytes32 task) external returns (bytes32 seen) {
        tasks.start(task);
        // what the old seed was made of, and the hash that makes the new one: there is none yet
        require(blockhash(tasks.taskInfo(task).seedBlock) == 0);
        return keccak256(abi.encode(task, block.prevrandao, blockhash(block.number - 1)));
    }
}

/// @notice Finding 3: whoever started a task chose the block whose seed suited it. Now the members are fixed before the block
/// of the seed, which is the next one, whoever opens the task and when.
contract AuditGenesisTest is AuditBase {
    Starter private starter;

    function setUp() public override {
        super.setUp();
        starter = new Starter(tasks);
        Terms memory terms = _terms();
        (terms.fixedGenesis, terms.minMembers, terms.maxMembers) = (false, 5, MEMBERS);
        _create(terms);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
    }

    function _seed(uint256 number) private view returns (bytes32) {
        return keccak256(abi.encode(keccak256("flock_ray/genesis/1"), TASK, blockhash(number)));
    }

    function test_3_MembersAreFixedBeforeTheSeedIs() public {
        starter.attempt(TASK);
        uint256 number = block.number + 1;
        vm.assertEq(tasks.taskInfo(TASK).seedBlock, number);
        vm.assertEq(tasks.taskInfo(TASK).seed, 0);
        bytes memory refusal = abi.encodeWithSelector(
            TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Joining, TaskRegistry.Status.Starting
        );
        for (uint256 i; i < 2; ++i) {
            address late = _staker(700 + i, STAKE);
            vm.expectRevert(refusal);
            _join(TASK, late, STAKE);
            vm.expectRevert(refusal);
            vm.prank(members[0]);
            tasks.cancelJoin(TASK);
            vm.expectRevert(
                abi.encodeWithSelector(
                    TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Running, TaskRegistry.Status.Starting
                )
            );
            vm.prank(members[0]);
            tasks.resign(TASK);
            vm.expectRevert(refusal);
            tasks.start(TASK);
            vm.roll(number + 1);
        }
        tasks.open(TASK);
        vm.assertEq(tasks.taskInfo(TASK).seed, _seed(number));
        vm.assertEq(tasks.taskInfo(TASK).numSlots, MEMBERS);
    }

    /// @dev Neither when it is opened nor by whom, nor what that block holds, moves the seed.
    function testFuzz_3_OpeningChoosesNothing(uint256 wait, bytes32 beacon, address caller) public {
        tasks.start(TASK);
        uint256 number = block.number + 1;
        vm.roll(number + bound(wait, 1, 256));
        vm.warp(block.timestamp + wait % 1 days);
        vm.prevrandao(beacon);
        bytes32 seed = _seed(number);
        vm.assertNotEq(blockhash(number), 0);
        vm.prank(caller);
        tasks.open(TASK);
        vm.assertEq(tasks.taskInfo(TASK).seed, seed);
        vm.assertTrue(tasks.taskInfo(TASK).status == TaskRegistry.Status.Running, "it runs");
    }

    /// @dev Who would not have the seed that is there must keep everybody from opening for 256 blocks; then it is another.
    function test_3_ForgottenBlockIsFixedAnew() public {
        tasks.start(TASK);
        uint256 number = block.number + 1;
        vm.roll(number + 257);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.SeedBlockFixed(TASK, number + 258);
        tasks.open(TASK);
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertTrue(info.status == TaskRegistry.Status.Starting, "not yet");
        vm.assertEq(info.seedBlock, number + 258);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.SeedBlockNotReached.selector, number + 258));
        tasks.open(TASK);
        vm.roll(number + 259);
        tasks.open(TASK);
        vm.assertEq(tasks.taskInfo(TASK).seed, _seed(number + 258));
        _settle(_report(TASK));
    }
}

/// @notice Finding 4: whoever knew the seed of the epoch from which its change counted tried with how many slots to join
/// until the committee was its own. Now a change counts one epoch later, whose seed nobody knows.
contract AuditGrindingTest is AuditBase {
    uint32 private constant HONEST = 32;
    uint32 private constant BAD = 4; // in from the start
    uint32 private constant MORE = 16; // slots that the attackers may still join with
    uint32 private constant V = 7;
    uint256 private constant QUORUM = 5;

    address private joiner;
    address[] private people;

    /// @dev Seats of the attackers when `more` slots joined at the end.
    function _captured(bytes32 seed, uint64 epoch, uint32 more) private view returns (bool) {
        uint256[] memory drawn = Roles.draw(seed, TASK, epoch, HONEST + BAD + more, V);
        uint256 ours;
        for (uint256 i; i < V; ++i) {
            if (drawn[i] < BAD || drawn[i] >= HONEST + BAD) ++ours;
        }
        return ours >= QUORUM;
    }

    function _next(bytes32 seed, bytes32 digest) private pure returns (bytes32) {
        return keccak256(abi.encode(TAG_SEED, seed, digest));
    }

    /// @dev The number of slots, of those it has, that gives it the committee of an epoch; all of them if none does.
    function _choose(bytes32 seed, uint64 epoch) private view returns (uint32 more) {
        for (; more < MORE; ++more) {
            if (_captured(seed, epoch, more)) return more;
        }
    }

    /// @notice The advantage of choosing, measured: great for who knows the seed, as it was, none for who knows all that can
    /// be known now, which is the seed of the epoch before.
    function test_4_ChoosingSlotsPicksNoCommittee() public view {
        uint256 rounds = 1000;
        uint256 fixed_;
        uint256 knowing;
        uint256 guessing;
        for (uint256 i; i < rounds; ++i) {
            (bool all, bool known, bool guessed) = this.tryOnce(i);
            if (all) ++fixed_;
            if (known) ++knowing;
            if (guessed) ++guessing;
        }
        vm.assertLt(rounds / 50, fixed_, "it happens at all");
        vm.assertLt(2 * fixed_, knowing, "it would help to know the seed");
        vm.assertLe(guessing, fixed_ + fixed_ / 10, "but nobody does");
    }

    /// @notice Whether the committee is captured with all slots, with the right number, and with the one that would have been
    /// right an epoch earlier.
    function tryOnce(uint256 round) external view returns (bool all, bool knowing, bool guessing) {
        bytes32 known = keccak256(abi.encode("seed", round));
        bytes32 seed = _next(known, keccak256(abi.encode("reveals that nobody knows", round)));
        all = _captured(seed, 4, MORE);
        knowing = _captured(seed, 4, _choose(seed, 4));
        guessing = _captured(seed, 4, _choose(known, 3));
    }

    /// @dev Epochs `settled` + 1 and + 2 may be over while a change is asked for: the seed of + 3 is known, and its committee
    /// stays what it was. That of + 4 hangs on the reveals of + 3, an epoch that has not begun.
    function test_4_ChangeCountsFromASeedThatNobodyKnows() public {
        Terms memory terms = _terms();
        (terms.maxMembers, terms.minMembers, terms.maxSlots) = (HONEST + BAD + 1, 2, 32);
        (terms.numVoters, terms.numEpochs, terms.maxSkips, terms.maxUnsettled) = (V, 30, 20, 1);
        _create(terms);
        for (uint256 i; i < HONEST + BAD; ++i) {
            people.push(_staker(3000 + i, STAKE));
            _join(TASK, people[i], STAKE);
        }
        vm.prank(CREATOR);
        tasks.start(TASK);
        joiner = _staker(3999, 16 * STAKE);
        _settlePlain();

        bytes32 seed = tasks.taskInfo(TASK).seed;
        bytes32 known = _next(_next(seed, _digest(2)), _digest(3)); // of epoch 4
        vm.prank(joiner);
        tasks.join(TASK, 3 * STAKE, "tip", digests[TASK]);
        vm.assertEq(tasks.changesOf(TASK, 0, 1)[0].epoch, 5);
        _settlePlain();
        _settlePlain();
        vm.assertEq(tasks.taskInfo(TASK).seed, known);
        vm.assertEq(settlement.headOf(TASK).clock.numSlots, HONEST + BAD);
        Report memory report = _report(TASK);
        report.revealsDigest = keccak256("whatever comes to light only then");
        _settleAs(report, people);
        vm.assertEq(tasks.taskInfo(TASK).numSlots, HONEST + BAD); // the known seed drew on the slots of before
        vm.assertEq(tasks.taskInfo(TASK).seed, _next(known, report.revealsDigest));
        (uint256 due, uint256 slots) = tasks.dueAt(TASK, 5);
        vm.assertEq(due, 1);
        vm.assertEq(slots, HONEST + BAD + 3);
    }

    function _digest(uint256 epoch) private view returns (bytes32) {
        return keccak256(abi.encode("reveals", TASK, epoch)); // as in Fixture._report
    }

    function _settlePlain() private {
        _settleAs(_report(TASK), people);
    }

    function _settleAs(Report memory report, address[] memory owners) private {
        uint256[] memory drawn = settlement.drawSeats(report.seed, TASK, report.epoch, uint32(owners.length), V);
        bytes memory all;
        for (uint256 i; i < QUORUM; ++i) {
            all = bytes.concat(all, _signedBy(owners[drawn[i]], settlement.reportDigest(report)));
        }
        settlement.settle(report, (1 << QUORUM) - 1, all);
    }
}

/// @notice Findings 7 and 12, and what of 12 stays as it is.
contract AuditRestTest is AuditBase {
    function setUp() public override {
        super.setUp();
        Terms memory terms = _terms();
        terms.numEpochs = 30;
        _run(terms);
    }

    function _slashAndSettle(uint32 member, uint128 amount) private {
        Report memory report = _report(TASK);
        report.slashes = _slashes(member, amount);
        _settle(report);
    }

    /// @dev By the committee after member 0 left: the last one stands in its place.
    function _settleWithoutFirst() private {
        Report memory report = _report(TASK);
        uint256[] memory drawn = settlement.drawSeats(report.seed, TASK, report.epoch, MEMBERS - 1, VOTERS);
        bytes memory all;
        for (uint256 i; i < 3; ++i) {
            address voter = members[drawn[i] == 0 ? MEMBERS - 1 : drawn[i]];
            all = bytes.concat(all, _signedBy(voter, settlement.reportDigest(report)));
        }
        settlement.settle(report, 7, all);
    }

    /// @notice 7. Livepeer: a member that was slashed to zero voted on.
    function test_7_SlashedToZeroLosesItsSeats() public {
        Report memory report = _report(TASK);
        report.slashes = new Slash[](2); // twice in one report: it leaves once
        report.slashes[0] = Slash(0, STAKE - 1);
        report.slashes[1] = Slash(0, STAKE);
        bytes memory signatures = _sign(report, 7);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.ChangeAnnounced(TASK, members[0], 0, true, 5); // last settled is 1 by then
        settlement.settle(report, 7, signatures);
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertEq(info.numChanges, 1);
        vm.assertTrue(tasks.memberAt(TASK, 0).leaving, "it leaves");
        vm.assertEq(tasks.memberAt(TASK, 0).stake, 0);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyLeaving.selector, members[0]));
        vm.prank(members[0]);
        tasks.resign(TASK);
        for (uint256 i; i < 3; ++i) {
            _settle(_report(TASK));
        }
        _settleWithoutFirst();
        vm.assertEq(tasks.taskInfo(TASK).numSlots, MEMBERS - 1);
        for (uint256 i; i < 20; ++i) {
            address[] memory voters = settlement.committee(TASK);
            for (uint256 j; j < VOTERS; ++j) {
                vm.assertTrue(voters[j] != members[0], "it votes on");
            }
            _settle(_report(TASK));
        }
        // what was slashed late, after it left, still reverts for nobody
        _slashAndSettle(0, 1 ether);
    }

    function test_7_HalfOfItsSlotsKeepsAMember() public {
        _slashAndSettle(0, STAKE / 2);
        vm.assertEq(tasks.taskInfo(TASK).numChanges, 0);
        _slashAndSettle(0, 1);
        vm.assertEq(tasks.taskInfo(TASK).numChanges, 1);
        _slashAndSettle(0, 1);
        vm.assertEq(tasks.taskInfo(TASK).numChanges, 1);
    }

    /// @dev What counts after the last epoch is not asked for, and the slash goes on.
    function test_7_LateSlashNeverReverts() public {
        while (tasks.taskInfo(TASK).lastSettled < 25) {
            _settle(_report(TASK));
        }
        _slashAndSettle(0, STAKE); // counts from epoch 30 on, the last
        vm.assertEq(tasks.taskInfo(TASK).numChanges, 1);
        vm.assertEq(tasks.changesOf(TASK, 0, 1)[0].epoch, 30);
        _slashAndSettle(1, STAKE);
        vm.assertEq(tasks.taskInfo(TASK).numChanges, 1);
        vm.assertTrue(!tasks.memberAt(TASK, 1).leaving, "too late to leave");
        vm.assertEq(tasks.memberAt(TASK, 1).stake, 0);
    }

    /// @dev By evidence as well; and not of a task that is over.
    function test_7_EquivocationsRemoveToo() public {
        for (uint64 epoch = 1; epoch <= 2; ++epoch) {
            vm.assertEq(tasks.taskInfo(TASK).numChanges, 0);
            settlement.slashEquivocation(
                TASK,
                members[3],
                epoch,
                "seed",
                "acknowledgement",
                "one",
                "other",
                _contradiction(members[3], epoch, "acknowledgement")
            );
        }
        vm.assertEq(tasks.taskInfo(TASK).numChanges, 1);
        vm.assertEq(tasks.changesOf(TASK, 0, 1)[0].member, 3);
        vm.assertEq(tasks.changesOf(TASK, 0, 1)[0].epoch, 4);
    }

    /// @notice 12. A stolen key signs what no member ever signs, for epochs that nobody knows, and all kinds for one epoch.
    function test_12_StolenKeyBurnsHalfAnEpochOnly() public {
        string[4] memory unknown = ["vote", "ballot.a", "", "Seen"];
        for (uint256 i; i < 4; ++i) {
            bytes memory both = _contradiction(members[0], 1, unknown[i]);
            vm.expectRevert(abi.encodeWithSelector(Misconduct.UnknownKind.selector, unknown[i]));
            settlement.slashEquivocation(TASK, members[0], 1, "seed", unknown[i], "one", "other", both);
        }
        string[7] memory kinds = [
            "commitment",
            "acknowledgement",
            "manifest",
            "ballot_a_commitment",
            "ballot_a",
            "ballot_b_commitment",
            "ballot_b"
        ];
        for (uint32 i; i < 7; ++i) {
            bytes memory both = _contradiction(members[0], 1, kinds[i]);
            if (i != 0) {
                bytes32 offence = keccak256(abi.encode(TASK, members[0], uint64(1)));
                vm.expectRevert(abi.encodeWithSelector(Misconduct.AlreadyPunished.selector, offence));
            }
            settlement.slashEquivocation(TASK, members[0], 1, "seed", kinds[i], "one", "other", both);
            vm.assertEq(tasks.memberAt(TASK, 0).stake, STAKE / 2);
            // each of them is a kind that another member is punished for
            both = _contradiction(members[1 + i], 2, kinds[i]);
            settlement.slashEquivocation(TASK, members[1 + i], 2, "seed", kinds[i], "one", "other", both);
        }
    }

    function test_12_EpochsAreThoseThatMayHaveBeenSigned() public {
        uint64[4] memory epochs = [uint64(0), 3, type(uint64).max, 2];
        for (uint256 i; i < 4; ++i) {
            bytes memory both = _contradiction(members[0], epochs[i], "acknowledgement");
            if (i != 3) vm.expectRevert(abi.encodeWithSelector(Misconduct.UnknownEpoch.selector, epochs[i], 2));
            settlement.slashEquivocation(TASK, members[0], epochs[i], "seed", "acknowledgement", "one", "other", both);
        }
        vm.assertEq(tasks.memberAt(TASK, 0).stake, STAKE / 2);
        _settle(_report(TASK));
        bytes memory next = _contradiction(members[0], 3, "acknowledgement");
        settlement.slashEquivocation(TASK, members[0], 3, "seed", "acknowledgement", "one", "other", next);
        vm.assertEq(tasks.memberAt(TASK, 0).stake, STAKE / 4);
        // reports are bound alike
        Report memory one = _report(TASK);
        one.epoch = 4;
        Report memory other = abi.decode(abi.encode(one), (Report));
        other.modelHash = "another";
        bytes memory signed = bytes.concat(
            _signedBy(members[1], settlement.reportDigest(one)), _signedBy(members[1], settlement.reportDigest(other))
        );
        vm.expectRevert(abi.encodeWithSelector(Misconduct.UnknownEpoch.selector, 4, 3));
        settlement.slashReportEquivocation(members[1], one, other, signed);
    }

    /// @notice 12, as it is: whoever sees an accusation may send it first, the culprit too. It still loses nine tenths.
    function test_12_CulpritAccusesItselfFirst() public {
        bytes memory both = _contradiction(members[0], 1, "acknowledgement");
        address puppet = address(0xDEAD1);
        vm.prank(puppet);
        settlement.slashEquivocation(TASK, members[0], 1, "seed", "acknowledgement", "one", "other", both);
        vm.expectRevert();
        vm.prank(STRANGER);
        settlement.slashEquivocation(TASK, members[0], 1, "seed", "acknowledgement", "one", "other", both);
        vm.assertEq(token.balanceOf(puppet), STAKE / 20);
        vm.assertEq(token.balanceOf(STRANGER), 0);
        vm.assertEq(_wealth(members[0]) + token.balanceOf(puppet), WALLET - STAKE / 2 * 9 / 10);
    }

    /// @notice 12, as it is: who blocks an epoch with a third of the seats pays nothing, and knows the next committee before.
    function test_12_BlockingIsFreeAndItsOutcomeKnown() public {
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        uint256[] memory next = settlement.drawSeats(
            keccak256(abi.encode(keccak256("flock_ray/skip/1"), info.seed)), TASK, 2, MEMBERS, VOTERS
        );
        vm.warp(block.timestamp + 2 * DEADLINE + 1);
        settlement.abandon(TASK, 1);
        address[] memory voters = settlement.committee(TASK);
        for (uint256 i; i < VOTERS; ++i) {
            vm.assertEq(voters[i], members[next[i]]);
        }
        Report memory report = _report(TASK);
        report.epoch = 1;
        vm.expectRevert();
        settlement.challengeAbsence(report, 0);
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE);
    }
}

/// @notice Finding 10: after an outage of the sequencer the first transaction could void what was signed. Now it takes two,
/// and whoever was kept away has the time between them.
contract AuditOutageTest is AuditBase {
    uint64 private constant GRACE = 600;

    function _grace() internal pure override returns (uint64) {
        return GRACE;
    }

    function setUp() public override {
        super.setUp();
        _run(_terms());
    }

    function test_10_OutageVoidsNoSignedEpoch() public {
        Report memory report = _report(TASK);
        bytes memory all = _sign(report, 7);
        vm.warp(block.timestamp + 2 * DEADLINE + 1); // no block in between
        uint256 from = block.timestamp + GRACE;
        vm.assertEq(settlement.abandonableFrom(TASK, 1), 0);
        vm.expectEmit(address(settlement));
        emit EpochSettlement.AbandonmentAnnounced(TASK, 1, from);
        vm.prank(STRANGER);
        settlement.abandon(TASK, 1);
        vm.assertEq(settlement.abandonableFrom(TASK, 1), from);
        vm.assertEq(tasks.taskInfo(TASK).lastSettled, 0);
        vm.warp(from - 1);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.GraceNotOver.selector, from));
        settlement.abandon(TASK, 1);
        settlement.settle(report, 7, all);
        vm.assertEq(tasks.taskInfo(TASK).lastSettled, 1);
        // and the announcement does not count for the next epoch
        vm.assertEq(settlement.abandonableFrom(TASK, 2), 0);
        vm.expectRevert(abi.encodeWithSelector(EpochSettlement.DeadlineNotPassed.selector, from - 1 + 2 * DEADLINE));
        settlement.abandon(TASK, 2);
        vm.warp(from + 2 * DEADLINE);
        settlement.abandon(TASK, 2);
        vm.assertEq(tasks.taskInfo(TASK).lastSettled, 1);
        vm.warp(block.timestamp + GRACE);
        settlement.abandon(TASK, 2);
        vm.assertEq(tasks.taskInfo(TASK).lastSettled, 2);
        vm.assertEq(settlement.abandonableFrom(TASK, 3), 0);
    }

    /// @dev A task of many short epochs is not given up before each of them had its grace: that counts in its life.
    function test_10_GraceCountsInTheLifeOfATask() public {
        Terms memory terms = _terms();
        (terms.pool, terms.maxUnsettled) = (0, 0);
        (terms.numEpochs, terms.epochDeadline) = (10 * 365 days / 3600, 3600 - uint64(GRACE));
        _create(keccak256("other seed"), terms);
        terms.numEpochs += 1;
        vm.expectRevert(abi.encodeWithSelector(TaskTerms.InvalidTerms.selector, "numEpochs"));
        tasks.createTask(terms, SEED);
        (terms.numEpochs, terms.epochDeadline) = (type(uint24).max, 1);
        vm.expectRevert(abi.encodeWithSelector(TaskTerms.InvalidTerms.selector, "numEpochs"));
        tasks.createTask(terms, SEED);
    }

    /// @dev The announcement comes after the deadline, or not at all.
    function test_10_NobodyAnnouncesEarly() public {
        uint256 deadline = block.timestamp + 2 * DEADLINE;
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(EpochSettlement.DeadlineNotPassed.selector, deadline));
        settlement.abandon(TASK, 1);
    }

    function test_10_OutageSlashesNobodyWhoHasTheSignature() public {
        Report memory report = _report(TASK);
        address voter = settlement.committee(TASK)[3];
        bytes memory answer = _signedBy(voter, settlement.reportDigest(report));
        _settle(report);
        settlement.challengeAbsence(report, 3);
        vm.warp(block.timestamp + RESPONSE_WINDOW + 1); // no block in between
        uint64 from = uint64(block.timestamp) + GRACE;
        vm.expectEmit(address(settlement));
        emit Misconduct.SlashAnnounced(TASK, 1, 3, from);
        settlement.slashAbsent(TASK, 1, 3);
        vm.assertEq(settlement.challengeOf(TASK, 1, 3).slashableFrom, from);
        vm.warp(from - 1);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.GraceNotOver.selector, from));
        settlement.slashAbsent(TASK, 1, 3);
        settlement.answerChallenge(TASK, 1, 3, answer);
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE);
        vm.warp(from);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.NoChallenge.selector, 3));
        settlement.slashAbsent(TASK, 1, 3);
    }

    function test_10_WhoHasNoSignatureIsSlashedByTheSecondCall() public {
        Report memory report = _report(TASK);
        _settle(report);
        vm.prank(STRANGER);
        settlement.challengeAbsence(report, 3);
        vm.warp(block.timestamp + RESPONSE_WINDOW + 1);
        settlement.slashAbsent(TASK, 1, 3);
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE);
        vm.warp(block.timestamp + GRACE);
        settlement.slashAbsent(TASK, 1, 3);
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE - STAKE / 100);
        vm.assertEq(token.balanceOf(STRANGER), STAKE / 1000);
    }
}

/// @notice Finding 11: who holds which role could not be read, so that a hidden admin went unseen.
contract AuditRolesTest is AuditBase {
    function test_11_EverybodyCanReadWhoHoldsRoles() public {
        bytes32 admin = tasks.DEFAULT_ADMIN_ROLE();
        bytes32 creator = tasks.CREATOR_ROLE();
        bytes32 guardian = distributor.GUARDIAN_ROLE();
        vm.assertEq(tasks.getRoleMemberCount(admin), 1);
        vm.assertEq(tasks.getRoleMember(admin, 0), ADMIN);
        vm.assertEq(tasks.getRoleMemberCount(creator), 0);
        vm.assertEq(distributor.getRoleMemberCount(admin), 1);
        vm.assertEq(distributor.getRoleMember(admin, 0), ADMIN);
        vm.assertEq(distributor.getRoleMemberCount(guardian), 1);
        vm.assertEq(distributor.getRoleMember(guardian, 0), GUARDIAN);
        vm.startPrank(ADMIN);
        tasks.grantRole(admin, STRANGER);
        distributor.grantRole(guardian, STRANGER);
        vm.assertEq(tasks.getRoleMemberCount(admin), 2);
        vm.assertEq(tasks.getRoleMember(admin, 1), STRANGER);
        vm.assertEq(distributor.getRoleMemberCount(guardian), 2);
        tasks.revokeRole(admin, STRANGER);
        vm.assertEq(tasks.getRoleMemberCount(admin), 1);
        vm.stopPrank();
    }
}

/// @notice Subtensor #1787: who takes a place that became free inherits what was meant for its former holder. This held before.
contract AuditPlacesTest is AuditBase {
    function test_IndexIsNeverUsedAgain() public {
        Terms memory terms = _terms();
        (terms.numEpochs, terms.maxSkips, terms.maxMembers) = (20, 5, MEMBERS);
        _run(terms);
        vm.prank(members[2]);
        tasks.resign(TASK);
        for (uint256 i; i < 3; ++i) {
            _settle(_report(TASK));
        }
        // epoch 4 is settled by the committee of seven slots
        Report memory report = _report(TASK);
        address[] memory owners = new address[](7);
        for (uint256 i; i < 7; ++i) {
            owners[i] = members[i == 2 ? 7 : i];
        }
        uint256[] memory drawn = settlement.drawSeats(report.seed, TASK, 4, 7, VOTERS);
        bytes memory all;
        for (uint256 i; i < 3; ++i) {
            all = bytes.concat(all, _signedBy(owners[drawn[i]], settlement.reportDigest(report)));
        }
        settlement.settle(report, 7, all);
        address late = _staker(970, STAKE);
        _join(TASK, late, STAKE);
        vm.assertEq(tasks.indexOf(TASK, late), MEMBERS);
        vm.assertEq(tasks.memberAt(TASK, 2).account, members[2]);
    }
}
