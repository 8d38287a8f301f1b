// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";
import {Committees} from "../src/Committees.sol";
import {EpochSettlement} from "../src/EpochSettlement.sol";
import {Misconduct} from "../src/Misconduct.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report} from "../src/libraries/Reports.sol";
import {Signatures} from "../src/libraries/Signatures.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice Slashes that a member's own signatures prove, or their absence.
contract MisconductTest is Fixture {
    bytes32 private constant FIRST = keccak256("first");
    bytes32 private constant SECOND = keccak256("second");
    bytes32 private constant EPOCH_SEED = keccak256("seed of the epoch");
    uint256 private constant SEATS = 7; // the first three of four

    address private cheat;

    function setUp() public override {
        super.setUp();
        _run(_terms());
        cheat = members[3];
    }

    function _both(address account, string memory kind, bytes32 first, bytes32 second)
        private
        view
        returns (bytes memory)
    {
        return bytes.concat(
            _signedBy(account, settlement.messageDigest(TASK, 1, EPOCH_SEED, kind, first)),
            _signedBy(account, settlement.messageDigest(TASK, 1, EPOCH_SEED, kind, second))
        );
    }

    function _bothAt(address account, uint64 epoch, string memory kind) private view returns (bytes memory) {
        return bytes.concat(
            _signedBy(account, settlement.messageDigest(TASK, epoch, EPOCH_SEED, kind, FIRST)),
            _signedBy(account, settlement.messageDigest(TASK, epoch, EPOCH_SEED, kind, SECOND))
        );
    }

    function test_EquivocationCostsHalfTheStake() public {
        bytes memory signatures = _both(cheat, "ballot_a", FIRST, SECOND);
        vm.prank(STRANGER);
        settlement.slashEquivocation(TASK, cheat, 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, signatures);
        vm.assertEq(tasks.memberAt(TASK, 3).stake, STAKE / 2);
        vm.assertEq(token.balanceOf(STRANGER), STAKE / 20);
        vm.assertEq(tasks.taskInfo(TASK).poolLeft, POOL);
        vm.assertEq(tasks.taskInfo(TASK).escrow, STAKE / 2 - STAKE / 20);
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE - STAKE / 2);
        _checkHoldings(TASK, 0);
    }

    /// @dev A member that is joining cannot burn its own stake, and then start with all its seats.
    function test_NobodyIsPunishedBeforeTheStart() public {
        bytes32 early = _create(keccak256("not started"), _terms());
        _join(early, members[0], STAKE);
        bytes memory both = bytes.concat(
            _signedBy(members[0], settlement.messageDigest(early, 1, "seed", "acknowledgement", "one")),
            _signedBy(members[0], settlement.messageDigest(early, 1, "seed", "acknowledgement", "other"))
        );
        vm.expectRevert(abi.encodeWithSelector(Committees.NotRunning.selector, early));
        settlement.slashEquivocation(early, members[0], 1, "seed", "acknowledgement", "one", "other", both);
        vm.assertEq(vault.lockedStake(early, members[0]), STAKE);
    }

    function test_EachEquivocationIsPunishedOnce() public {
        bytes memory signatures = _both(cheat, "ballot_a", FIRST, SECOND);
        settlement.slashEquivocation(TASK, cheat, 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, signatures);
        bytes32 offence = keccak256(abi.encode(TASK, cheat, uint64(1)));
        vm.expectRevert(abi.encodeWithSelector(Misconduct.AlreadyPunished.selector, offence));
        settlement.slashEquivocation(TASK, cheat, 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, signatures);
        // Nor with a third message, nor the other way round.
        signatures = _both(cheat, "ballot_a", SECOND, "third");
        vm.expectRevert(abi.encodeWithSelector(Misconduct.AlreadyPunished.selector, offence));
        settlement.slashEquivocation(TASK, cheat, 1, EPOCH_SEED, "ballot_a", SECOND, "third", signatures);
        // Nor for another kind, or two reports: a careless key loses half an epoch, not all.
        signatures = _both(cheat, "ballot_b", FIRST, SECOND);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.AlreadyPunished.selector, offence));
        settlement.slashEquivocation(TASK, cheat, 1, EPOCH_SEED, "ballot_b", FIRST, SECOND, signatures);
        Report memory one = _report(TASK);
        Report memory other = _report(TASK);
        other.modelHash = keccak256("another model");
        signatures = bytes.concat(
            _signedBy(cheat, settlement.reportDigest(one)), _signedBy(cheat, settlement.reportDigest(other))
        );
        vm.expectRevert(abi.encodeWithSelector(Misconduct.AlreadyPunished.selector, offence));
        settlement.slashReportEquivocation(cheat, one, other, signatures);
        vm.assertTrue(settlement.punished(offence), "the offence is told");
        // Another epoch is another offence, on what is left; another member's is its own.
        signatures = _bothAt(cheat, 2, "ballot_b");
        settlement.slashEquivocation(TASK, cheat, 2, EPOCH_SEED, "ballot_b", FIRST, SECOND, signatures);
        vm.assertEq(tasks.memberAt(TASK, 3).stake, STAKE / 4);
        signatures = _both(members[4], "ballot_a", FIRST, SECOND);
        settlement.slashEquivocation(TASK, members[4], 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, signatures);
        vm.assertEq(tasks.memberAt(TASK, 4).stake, STAKE / 2);
    }

    /// @dev One message signed twice is no equivocation, however its signatures differ.
    function test_SameMessageTwiceIsNoEquivocation() public {
        bytes memory signatures = _both(cheat, "ballot_a", FIRST, FIRST);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.NoConflict.selector, FIRST));
        settlement.slashEquivocation(TASK, cheat, 1, EPOCH_SEED, "ballot_a", FIRST, FIRST, signatures);
    }

    /// @dev A victim cannot be framed with its messages of other kinds, epochs, tasks or contracts, or another's.
    function test_NobodyIsFramed() public {
        bytes32 other = settlement.messageDigest(TASK, 1, EPOCH_SEED, "ballot_b", SECOND);
        _notProven(cheat, other);
        _notProven(cheat, settlement.messageDigest(TASK, 2, EPOCH_SEED, "ballot_a", SECOND));
        _notProven(cheat, settlement.messageDigest(TASK, 1, keccak256("after an abandoned epoch"), "ballot_a", SECOND));
        _notProven(cheat, settlement.messageDigest(keccak256("other task"), 1, EPOCH_SEED, "ballot_a", SECOND));
        EpochSettlement twin = new EpochSettlement(tasks, distributor, ABSENCE_BPS, RESPONSE_WINDOW, 0);
        _notProven(cheat, twin.messageDigest(TASK, 1, EPOCH_SEED, "ballot_a", SECOND));
        _notProven(members[4], settlement.messageDigest(TASK, 1, EPOCH_SEED, "ballot_a", SECOND));
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE);
    }

    /// @dev One true message of the cheat, and another signature that proves nothing.
    function _notProven(address signer, bytes32 digest) private {
        bytes memory signatures = bytes.concat(
            _signedBy(cheat, settlement.messageDigest(TASK, 1, EPOCH_SEED, "ballot_a", FIRST)),
            _signedBy(signer, digest)
        );
        vm.expectRevert(abi.encodeWithSelector(Misconduct.NotSignedBy.selector, cheat));
        settlement.slashEquivocation(TASK, cheat, 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, signatures);
    }

    function test_StrangersHaveNoStakeToLose() public {
        keys[vm.addr(77)] = 77;
        bytes memory signatures = _both(vm.addr(77), "ballot_a", FIRST, SECOND);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NotMember.selector, vm.addr(77)));
        settlement.slashEquivocation(TASK, vm.addr(77), 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, signatures);
        // Nobody signs for the zero address, whom a failed recovery names.
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NotMember.selector, address(0)));
        settlement.slashEquivocation(TASK, address(0), 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, new bytes(128));
    }

    function isBy(address account, bytes32 digest, bytes calldata signature) external view returns (bool) {
        return Signatures.isBy(account, digest, signature);
    }

    /// @dev A signature with s above half the order is refused, though the precompile names a signer for it.
    function test_HighSIsRefused() public view {
        uint256 half = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
        (, bytes32 r,) = vm.sign(1, FIRST);
        for (uint256 s = half; s <= half + 1; ++s) {
            address signer = ecrecover(FIRST, 27, r, bytes32(s));
            vm.assertTrue(signer != address(0), "the precompile names nobody");
            vm.assertTrue(this.isBy(signer, FIRST, abi.encodePacked(r, s)) == (s == half), "high s");
        }
    }

    function test_EquivocationAfterCloseUntilReleased() public {
        bytes memory signatures = _both(cheat, "ballot_a", FIRST, SECOND);
        bytes memory late = _both(members[4], "ballot_a", FIRST, SECOND);
        for (uint256 i; i < EPOCHS; ++i) {
            _settle(_report(TASK));
        }
        uint256 before = token.balanceOf(CREATOR);
        uint256 sunk = token.balanceOf(SINK);
        settlement.slashEquivocation(TASK, cheat, 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, signatures);
        vm.assertEq(tasks.memberAt(TASK, 3).stake, STAKE / 2);
        vm.assertEq(token.balanceOf(SINK), sunk + STAKE / 2 - STAKE / 20); // the escrow is closed
        tasks.refund(TASK);
        vm.assertEq(token.balanceOf(CREATOR), before);
        _passWindow();
        tasks.release(TASK, members[4]);
        settlement.slashEquivocation(TASK, members[4], 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, late);
        vm.assertEq(_wealth(members[4]), WALLET); // too late, and nothing reverts
        _checkHoldings(TASK, 0);
    }

    function test_TwoReportsForOneEpoch() public {
        address voter = settlement.committee(TASK)[0];
        Report memory one = _report(TASK);
        Report memory other = _report(TASK);
        other.modelHash = keccak256("another model");
        bytes memory signatures = bytes.concat(
            _signedBy(voter, settlement.reportDigest(one)), _signedBy(voter, settlement.reportDigest(other))
        );
        vm.expectRevert(abi.encodeWithSelector(Misconduct.NoConflict.selector, settlement.reportHash(one)));
        settlement.slashReportEquivocation(voter, one, one, signatures);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.NotSignedBy.selector, cheat));
        settlement.slashReportEquivocation(cheat, one, other, signatures);
        settlement.slashReportEquivocation(voter, one, other, signatures);
        vm.assertEq(tasks.memberAt(TASK, tasks.indexOf(TASK, voter)).stake, STAKE / 2);
        vm.expectRevert();
        settlement.slashReportEquivocation(voter, other, one, signatures);
        other.epoch = 2; // reports of two epochs contradict nothing
        signatures = bytes.concat(
            _signedBy(voter, settlement.reportDigest(one)), _signedBy(voter, settlement.reportDigest(other))
        );
        vm.expectRevert(Misconduct.DifferentEpochs.selector);
        settlement.slashReportEquivocation(voter, one, other, signatures);
    }

    /// @dev Who signed epoch 2 before epoch 1 was abandoned signs epoch 2 again, under another seed.
    function test_AnEpochThatRunsAgainIsNoEquivocation() public {
        address voter = settlement.committee(TASK)[0];
        Report memory void = _report(TASK);
        void.epoch = 2;
        Report memory again = _report(TASK);
        again.epoch = 2;
        again.seed = keccak256("after an abandoned epoch");
        bytes memory signatures = bytes.concat(
            _signedBy(voter, settlement.reportDigest(void)), _signedBy(voter, settlement.reportDigest(again))
        );
        vm.expectRevert(Misconduct.DifferentEpochs.selector);
        settlement.slashReportEquivocation(voter, void, again, signatures);
    }

    /// @dev A member of two tasks that run alike signs a report for each of them.
    function test_ReportsOfTwoTasksContradictNothing() public {
        Terms memory terms = _terms();
        terms.termsHash = keccak256("other terms");
        bytes32 twin = _run(SEED, terms);
        Report memory one = _report(TASK);
        Report memory other = _report(twin);
        vm.assertEq(one.seed, other.seed);
        vm.assertEq(one.epoch, other.epoch);
        bytes memory signatures = bytes.concat(
            _signedBy(cheat, settlement.reportDigest(one)), _signedBy(cheat, settlement.reportDigest(other))
        );
        vm.expectRevert(Misconduct.DifferentEpochs.selector);
        settlement.slashReportEquivocation(cheat, one, other, signatures);
        vm.assertEq(_stakes(TASK) + _stakes(twin), 2 * MEMBERS * STAKE);
    }

    /// @dev What one task punishes the other may punish, too: the offence is the task's.
    function test_OffencesAreCountedByTask() public {
        Terms memory terms = _terms();
        terms.termsHash = keccak256("other terms");
        bytes32[2] memory ids = [TASK, _run(SEED, terms)];
        for (uint256 i; i < 2; ++i) {
            TASK = ids[i];
            bytes memory signatures = _both(cheat, "ballot_a", FIRST, SECOND);
            settlement.slashEquivocation(TASK, cheat, 1, EPOCH_SEED, "ballot_a", FIRST, SECOND, signatures);
            vm.assertEq(tasks.memberAt(TASK, 3).stake, STAKE / 2);
        }
    }

    /// @dev Settles the first epoch without seat 3; returns its report, and seat 3's owner and signature.
    function _settleWithoutLastSeat() private returns (Report memory report, address absent, bytes memory signature) {
        report = _report(TASK);
        absent = settlement.committee(TASK)[3];
        signature = _sign(report, 8);
        settlement.settle(report, SEATS, _sign(report, SEATS));
    }

    function test_AbsentSeatIsSlashedAfterItsWindow() public {
        (Report memory report, address absent, bytes memory signature) = _settleWithoutLastSeat();
        vm.prank(STRANGER);
        settlement.challengeAbsence(report, 3);
        uint64 deadline = uint64(block.timestamp) + RESPONSE_WINDOW;
        vm.assertEq(settlement.challengeOf(TASK, 1, 3).owner, absent);
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.ResponseWindowOpen.selector, deadline));
        settlement.slashAbsent(TASK, 1, 3);
        vm.warp(deadline + 1);
        signature[0] ^= 0x01;
        vm.expectRevert(abi.encodeWithSelector(Committees.InvalidSignature.selector, 0, absent));
        settlement.answerChallenge(TASK, 1, 3, signature);
        vm.prank(RELAYER); // whoever calls, the challenger is paid
        settlement.slashAbsent(TASK, 1, 3);
        vm.assertEq(tasks.memberAt(TASK, tasks.indexOf(TASK, absent)).stake, STAKE - STAKE / 100);
        vm.assertEq(token.balanceOf(STRANGER), STAKE / 1000);
        vm.assertEq(token.balanceOf(RELAYER), 0);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.NoChallenge.selector, 3));
        settlement.slashAbsent(TASK, 1, 3);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.AlreadyChallenged.selector, 3));
        settlement.challengeAbsence(report, 3);
        _checkHoldings(TASK, 0);
    }

    /// @dev A relayer that left a signature out does its owner no harm.
    function test_SignatureThatWasLeftOutAnswers() public {
        (Report memory report, address absent, bytes memory signature) = _settleWithoutLastSeat();
        settlement.challengeAbsence(report, 3);
        _settle(_report(TASK)); // later epochs change nothing
        bytes memory foreign =
            _signedBy(members[0] == absent ? members[1] : members[0], settlement.reportDigest(report));
        vm.expectRevert(abi.encodeWithSelector(Committees.InvalidSignature.selector, 0, absent));
        settlement.answerChallenge(TASK, 1, 3, foreign);
        vm.warp(block.timestamp + RESPONSE_WINDOW + 1); // late, but nobody has slashed it
        vm.prank(STRANGER);
        vm.expectEmit(address(settlement));
        emit Misconduct.Answered(TASK, 1, 3);
        settlement.answerChallenge(TASK, 1, 3, signature);
        vm.warp(block.timestamp + 1);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.NoChallenge.selector, 3));
        settlement.slashAbsent(TASK, 1, 3);
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE);
    }

    function test_OnlyAbsentSeatsOfLastReportAreChallenged() public {
        (Report memory report,,) = _settleWithoutLastSeat();
        for (uint256 seat; seat < 6; ++seat) {
            if (seat == 3) continue;
            vm.expectRevert(abi.encodeWithSelector(Misconduct.NotAbsent.selector, seat));
            settlement.challengeAbsence(report, seat);
        }
        vm.expectRevert(abi.encodeWithSelector(Misconduct.NoChallenge.selector, 3));
        settlement.slashAbsent(TASK, 1, 3);
        Report memory next = _report(TASK);
        settlement.settle(next, 15, _sign(next, 15));
        vm.expectRevert(
            abi.encodeWithSelector(
                Committees.NotLastReport.selector, settlement.reportHash(next), settlement.reportHash(report)
            )
        );
        settlement.challengeAbsence(report, 3);
        vm.expectRevert(abi.encodeWithSelector(Misconduct.NotAbsent.selector, 3)); // all of them signed this one
        settlement.challengeAbsence(next, 3);
    }

    function test_ShareAboveWholeIsRefused() public {
        vm.expectRevert(abi.encodeWithSelector(Misconduct.InvalidShare.selector, 10_001));
        new EpochSettlement(tasks, distributor, 10_001, 1, 0);
    }
}
