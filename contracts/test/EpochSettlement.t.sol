// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";
import {Committees} from "../src/Committees.sol";
import {EpochSettlement} from "../src/EpochSettlement.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report, Slash} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice Order, signatures and effects of settled reports.
contract SettleTest is Fixture {
    uint256 private constant QUORUM = 3;
    uint256 private constant SEATS = 7; // the first three of four

    function test_SettleAdvancesTask() public {
        _run(_terms());
        bytes32 seed = tasks.taskInfo(TASK).seed;
        vm.warp(block.timestamp + 50);
        Report memory report = _report(TASK);
        report.rewardsRoot = keccak256("root");
        report.rewardsTotal = 900 ether;
        bytes32 hash = settlement.reportHash(report);
        bytes memory signatures = _sign(report, SEATS);
        vm.expectEmit(address(settlement));
        emit EpochSettlement.EpochSettled(
            TASK, 1, hash, report.rewardsRoot, 900 ether, report.modelHash, report.recordHash
        );
        settlement.settle(report, SEATS, signatures);

        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertEq(info.lastSettled, 1);
        vm.assertEq(info.lastReport, hash);
        vm.assertEq(info.rewardsRoot, report.rewardsRoot);
        vm.assertEq(distributor.accountOf(TASK).root, report.rewardsRoot);
        vm.assertEq(info.committed, 900 ether);
        vm.assertEq(info.poolLeft, POOL - 900 ether);
        vm.assertEq(info.epochStart, block.timestamp);
        vm.assertEq(info.seed, keccak256(abi.encode(keccak256("flock_ray/seed/1"), seed, report.revealsDigest)));
    }

    function test_CommitteeIsDrawnFromSlots() public {
        _run(_terms());
        address[] memory voters = settlement.committee(TASK);
        uint256[] memory slots = settlement.drawSeats(keccak256("genesis"), TASK, 1, MEMBERS, VOTERS);
        vm.assertEq(voters.length, VOTERS);
        for (uint256 seat; seat < VOTERS; ++seat) {
            vm.assertEq(voters[seat], tasks.slotOwners(TASK, slots)[seat]);
        }
    }

    function test_LastEpochClosesAndRefunds() public {
        uint256 before = token.balanceOf(CREATOR);
        _run(_terms());
        for (uint256 epoch = 1; epoch <= EPOCHS; ++epoch) {
            Report memory report = _report(TASK);
            report.rewardsTotal += 100 ether;
            if (epoch == EPOCHS) report.slashes = _slashes(2, 50 ether);
            _settle(report);
        }
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertEq(uint256(info.status), uint256(TaskRegistry.Status.Closed));
        vm.assertEq(info.poolLeft, 0);
        vm.assertEq(info.escrow, 0);
        vm.assertEq(token.balanceOf(CREATOR), before - 300 ether);
        vm.assertEq(token.balanceOf(SINK), 45 ether);
        vm.expectRevert(abi.encodeWithSelector(Committees.NotRunning.selector, TASK));
        settlement.committee(TASK);
        Report memory late = _report(TASK);
        vm.expectRevert(abi.encodeWithSelector(Committees.NotRunning.selector, TASK));
        settlement.settle(late, SEATS, new bytes(192));
    }

    function test_SameReportHasOneEffect() public {
        _run(_terms());
        for (uint64 epoch = 1; epoch <= EPOCHS; ++epoch) {
            Report memory report = _report(TASK);
            bytes memory first = _sign(report, 7);
            bytes memory second = _sign(report, 14);
            settlement.settle(report, 7, first);
            bytes32 hash = settlement.reportHash(report);
            // Also after the last epoch, and with other signatures of the same quorum.
            vm.expectRevert(abi.encodeWithSelector(EpochSettlement.AlreadySettled.selector, epoch, hash));
            settlement.settle(report, 14, second);
            vm.assertEq(tasks.taskInfo(TASK).lastSettled, epoch);
        }
    }

    function test_ReportsComeInOrder() public {
        _run(_terms());
        Report memory first = _report(TASK);
        bytes memory firstSignatures = _sign(first, SEATS);
        Report memory report = _report(TASK);
        report.epoch = 2;
        _refused(report, abi.encodeWithSelector(EpochSettlement.WrongEpoch.selector, 1, 2));
        settlement.settle(first, SEATS, firstSignatures);
        _settle(_report(TASK));
        vm.expectRevert(abi.encodeWithSelector(EpochSettlement.WrongEpoch.selector, 3, 1));
        settlement.settle(first, SEATS, firstSignatures);

        bytes32 last = tasks.taskInfo(TASK).lastReport;
        report = _report(TASK);
        report.previousReport = settlement.reportHash(first);
        _refused(
            report, abi.encodeWithSelector(EpochSettlement.WrongPreviousReport.selector, last, report.previousReport)
        );
        report = _report(TASK);
        bytes32 seed = report.seed;
        report.seed = keccak256("other");
        _refused(report, abi.encodeWithSelector(EpochSettlement.WrongSeed.selector, seed, report.seed));
    }

    function test_ReportAfterAbandonKeepsChain() public {
        _run(_terms());
        Report memory first = _report(TASK);
        _settle(first);
        Report memory void = _report(TASK);
        bytes memory signatures = _sign(void, SEATS);
        vm.warp(block.timestamp + 2 * DEADLINE + 1);
        settlement.abandon(TASK, 2);
        vm.expectRevert(abi.encodeWithSelector(EpochSettlement.WrongEpoch.selector, 3, 2));
        settlement.settle(void, SEATS, signatures);
        Report memory report = _report(TASK);
        vm.assertEq(report.epoch, 3);
        vm.assertEq(report.previousReport, settlement.reportHash(first));
        _settle(report);
    }

    function test_UnknownTask() public {
        Report memory report = _report(TASK);
        report.epoch = 1;
        _refused(report, abi.encodeWithSelector(Committees.NotRunning.selector, TASK));
    }

    function _refused(Report memory report, bytes memory reason) private {
        vm.expectRevert(reason);
        settlement.settle(report, SEATS, new bytes(64 * QUORUM));
    }

    /// @dev Any subset of the seats settles exactly when it holds more than two thirds of them.
    function testFuzz_QuorumBoundary(uint32 numVoters, uint256 seats) public {
        Terms memory terms = _terms();
        terms.numVoters = uint32(bound(numVoters, 1, 7));
        _run(terms);
        seats = bound(seats, 0, (1 << terms.numVoters) - 1);
        uint256 signed;
        for (uint256 bits = seats; bits != 0; bits &= bits - 1) {
            ++signed;
        }
        Report memory report = _report(TASK);
        bytes memory signatures = _sign(report, seats);
        bool enough = 3 * signed > 2 * uint256(terms.numVoters);
        if (!enough) {
            vm.expectRevert(abi.encodeWithSelector(Committees.QuorumMissing.selector, _quorum(terms.numVoters), signed));
        }
        settlement.settle(report, seats, signatures);
        vm.assertEq(tasks.taskInfo(TASK).lastSettled, enough ? 1 : 0);
    }

    function test_SeatBeyondCommitteeIsRefused() public {
        _run(_terms());
        Report memory report = _report(TASK);
        bytes32 digest = settlement.reportDigest(report);
        address[] memory voters = settlement.committee(TASK);
        for (uint256 seat = VOTERS; seat < 256; seat += 63) {
            // Two true seats and one that the committee does not have, signed by a voter.
            uint256 seats = 3 | (1 << seat);
            bytes memory signatures = bytes.concat(_sign(report, 3), _signature(keys[voters[2]], digest));
            vm.expectRevert(abi.encodeWithSelector(Committees.UnknownSeat.selector, seats, VOTERS));
            settlement.settle(report, seats, signatures);
        }
    }

    /// @dev A voter cannot count for a seat that is not its own, be it by setting another's bit or by repeating itself.
    function testFuzz_NobodySignsForForeignSeat(uint256 seat, uint256 key) public {
        _run(_terms());
        Report memory report = _report(TASK);
        address[] memory voters = settlement.committee(TASK);
        bytes32 digest = settlement.reportDigest(report);
        seat = bound(seat, 0, QUORUM - 1);
        key = bound(key, 1, 20); // members, voters or not, and strangers
        bytes memory signatures;
        for (uint256 i; i < QUORUM; ++i) {
            signatures = bytes.concat(signatures, _signature(i == seat ? key : keys[voters[i]], digest));
        }
        bool own = vm.addr(key) == voters[seat];
        if (!own) {
            vm.expectRevert(abi.encodeWithSelector(Committees.InvalidSignature.selector, seat, voters[seat]));
        }
        settlement.settle(report, SEATS, signatures);
    }

    /// @dev A member with several slots drawn holds several seats, and signs once for each of them.
    function test_MemberWithSeveralSlotsSignsForEachOfItsSeats() public {
        Terms memory terms = _terms();
        terms.minMembers = 2;
        terms.maxMembers = 2;
        _create(terms);
        _join(TASK, members[0], 4 * STAKE);
        _join(TASK, members[1], STAKE);
        tasks.start(TASK);
        Report memory report = _report(TASK);
        address[] memory voters = settlement.committee(TASK);
        uint256 seats;
        for (uint256 seat; seat < VOTERS; ++seat) {
            if (voters[seat] == members[0]) seats |= 1 << seat;
        }
        settlement.settle(report, seats, _sign(report, seats));
        vm.assertEq(tasks.taskInfo(TASK).lastSettled, 1);
    }

    function test_MalformedSignaturesAreRefused() public {
        _run(_terms());
        Report memory report = _report(TASK);
        address[] memory voters = settlement.committee(TASK);
        bytes memory signatures = _sign(report, SEATS);
        bytes memory tooFew = _sign(report, 3);

        vm.expectRevert(abi.encodeWithSelector(Committees.WrongSignatureLength.selector, 192, 256));
        settlement.settle(report, SEATS, bytes.concat(signatures, new bytes(64)));
        vm.expectRevert(abi.encodeWithSelector(Committees.WrongSignatureLength.selector, 192, 128));
        settlement.settle(report, SEATS, tooFew);
        vm.expectRevert(abi.encodeWithSelector(Committees.WrongSignatureLength.selector, 192, 191));
        settlement.settle(report, SEATS, bytes.concat(tooFew, new bytes(63)));
        vm.expectRevert(abi.encodeWithSelector(Committees.InvalidSignature.selector, 0, voters[0]));
        settlement.settle(report, SEATS, new bytes(192));
        signatures[32] ^= 0x80; // the other parity: another key's signature
        vm.expectRevert(abi.encodeWithSelector(Committees.InvalidSignature.selector, 0, voters[0]));
        settlement.settle(report, SEATS, signatures);
    }

    /// @dev Signatures are worth nothing for any other report: every field is bound.
    function testFuzz_SignaturesBindEveryField(uint256 field, bytes32 salt) public {
        _run(_terms());
        Report memory report = _report(TASK);
        report.slashes = _slashes(1, 5 ether);
        bytes memory signatures = _sign(report, SEATS);
        address[] memory voters = settlement.committee(TASK);
        field = bound(field, 0, 6);
        bytes32 before = keccak256(abi.encode(report));
        if (field == 0) report.revealsDigest = salt;
        if (field == 1) report.rewardsRoot = salt;
        if (field == 2) report.rewardsTotal = uint128(bound(uint256(salt), 1, POOL / EPOCHS));
        if (field == 3) report.slashes[0].amount = uint128(bound(uint256(salt), 6 ether, STAKE));
        if (field == 4) report.modelHash = salt;
        if (field == 5) report.recordHash = salt;
        if (field == 6) report.relayer = address(bytes20(salt));
        vm.assume(keccak256(abi.encode(report)) != before); // zero, say, is the root already
        vm.expectRevert(abi.encodeWithSelector(Committees.InvalidSignature.selector, 0, voters[0]));
        settlement.settle(report, SEATS, signatures);
    }

    /// @dev The same keys and seats on another task, or in another deployment, need other signatures.
    function test_SignaturesBindTaskAndContract() public {
        _run(_terms());
        bytes32 other = _run(keccak256("other seed"), _terms());
        bytes memory signatures = _sign(_report(TASK), SEATS);
        Report memory report = _report(other);
        address[] memory voters = settlement.committee(other);
        vm.expectRevert(abi.encodeWithSelector(Committees.InvalidSignature.selector, 0, voters[0]));
        settlement.settle(report, SEATS, signatures);

        EpochSettlement twin = new EpochSettlement(tasks, distributor, ABSENCE_BPS, RESPONSE_WINDOW, 0);
        report = _report(TASK);
        voters = settlement.committee(TASK);
        bytes32 digest = twin.reportDigest(report);
        signatures = bytes.concat(
            _signature(keys[voters[0]], digest),
            _signature(keys[voters[1]], digest),
            _signature(keys[voters[2]], digest)
        );
        vm.expectRevert(abi.encodeWithSelector(Committees.InvalidSignature.selector, 0, voters[0]));
        settlement.settle(report, SEATS, signatures);
    }

    /// @dev An epoch may pay its share of the pool to the last wei, and no wei more; its own slashes do not widen it.
    function testFuzz_RewardsWithinBudget(uint128 earlier, uint256 settled, uint128 excess) public {
        _run(_terms());
        settled = bound(settled, 0, EPOCHS - 1);
        Report memory report;
        for (uint256 i; i < settled; ++i) {
            report = _report(TASK);
            report.rewardsTotal += uint128(bound(earlier, 0, POOL / EPOCHS));
            _settle(report);
        }
        uint128 budget = tasks.taskInfo(TASK).poolLeft / uint128(EPOCHS - settled);
        excess = uint128(bound(excess, 1, POOL));
        report = _report(TASK);
        report.slashes = _slashes(0, STAKE);
        report.rewardsTotal += budget + excess;
        bytes memory signatures = _sign(report, SEATS);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.OverBudget.selector, budget, budget + excess));
        settlement.settle(report, SEATS, signatures);

        report.rewardsTotal -= excess - 1;
        signatures = _sign(report, SEATS);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.OverBudget.selector, budget, budget + 1));
        settlement.settle(report, SEATS, signatures);
        report.rewardsTotal -= 1;
        _settle(report);
        _checkHoldings(TASK, 0);
    }

    /// @dev Only the last epoch may commit the reserved end share; what it leaves goes back to the creator.
    function testFuzz_EndShareWaitsForLastEpoch(uint256 share, uint128 used) public {
        Terms memory terms = _terms();
        terms.endShareBps = uint32(bound(share, 0, 10_000));
        uint256 before = token.balanceOf(CREATOR);
        _run(terms);
        uint128 reserve = POOL * terms.endShareBps / 10_000;
        for (uint128 left = EPOCHS; left > 1; --left) {
            uint128 budget = (tasks.taskInfo(TASK).poolLeft - reserve) / left;
            vm.assertEq(distributor.budget(TASK, left), budget);
            Report memory report = _report(TASK);
            report.rewardsTotal += budget + 1;
            bytes memory signatures = _sign(report, SEATS);
            vm.expectRevert(abi.encodeWithSelector(RewardDistributor.OverBudget.selector, budget, budget + 1));
            settlement.settle(report, SEATS, signatures);
            report.rewardsTotal -= 1;
            _settle(report);
        }
        Report memory final_ = _report(TASK);
        uint128 rest = tasks.taskInfo(TASK).poolLeft;
        vm.assertLe(reserve, rest, "the reserve is there");
        used = uint128(bound(used, 0, rest));
        final_.rewardsTotal += used;
        _settle(final_);
        vm.assertEq(token.balanceOf(CREATOR), before - POOL + rest - used);
        _checkHoldings(TASK, 0);
    }

    function test_RewardsNeverFall() public {
        _run(_terms());
        Report memory report = _report(TASK);
        report.rewardsTotal = 10 ether;
        _settle(report);
        report = _report(TASK);
        report.rewardsTotal = 10 ether - 1;
        bytes memory signatures = _sign(report, SEATS);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.RewardsDecreased.selector, 10 ether, 10 ether - 1));
        settlement.settle(report, SEATS, signatures);
    }

    /// @dev Slashes take what is there, floor the relayer's tenth, and lose no wei; the same member may appear twice.
    function testFuzz_SlashesClamp(uint128 first, uint128 second, uint32 one, uint32 two) public {
        _run(_terms());
        one = uint32(bound(one, 0, MEMBERS - 1));
        two = uint32(bound(two, 0, MEMBERS - 1));
        Report memory report = _report(TASK);
        report.slashes = new Slash[](2);
        report.slashes[0] = Slash(one, first);
        report.slashes[1] = Slash(two, second);
        _settle(report);

        uint256 takenFirst = first < STAKE ? first : STAKE;
        uint256 left = one == two ? STAKE - takenFirst : STAKE;
        uint256 takenSecond = second < left ? second : left;
        uint256 relayed = takenFirst / 10 + takenSecond / 10;
        vm.assertEq(tasks.memberAt(TASK, two).stake, left - takenSecond);
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE - takenFirst - takenSecond);
        vm.assertEq(token.balanceOf(RELAYER), relayed);
        vm.assertEq(tasks.taskInfo(TASK).poolLeft, POOL);
        vm.assertEq(tasks.taskInfo(TASK).escrow, takenFirst + takenSecond - relayed);
        vm.assertEq(tasks.memberAt(TASK, one).slots, 1);
        _checkHoldings(TASK, 0);
    }

    function test_SlashedMemberIsReleasedTheRest() public {
        _run(_terms());
        Report memory report = _report(TASK);
        report.slashes = _slashes(0, 30 ether);
        _settle(report);
        report = _report(TASK);
        report.slashes = _slashes(1, type(uint128).max);
        _settle(report);
        _settle(_report(TASK));
        _passWindow();
        tasks.release(TASK, members[0]);
        vm.assertEq(vault.lockable(members[0], CREATOR), WALLET - 30 ether);
        vm.assertEq(vault.lockable(members[1], CREATOR), WALLET - STAKE);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NothingToRelease.selector, members[1]));
        tasks.release(TASK, members[1]);
    }

    function test_WithoutRelayerEscrowGetsAllOfSlash() public {
        _run(_terms());
        Report memory report = _report(TASK);
        report.relayer = address(0);
        report.slashes = _slashes(0, 30 ether);
        _settle(report);
        vm.assertEq(tasks.taskInfo(TASK).escrow, 30 ether);
        vm.assertEq(distributor.budget(TASK, 1), POOL); // and no epoch can pay it
    }

    function test_SlashesAreBounded() public {
        _run(_terms());
        Report memory report = _report(TASK);
        report.slashes = new Slash[](17);
        _refused(report, abi.encodeWithSelector(EpochSettlement.TooManySlashes.selector, 16, 17));
        report.slashes = _slashes(MEMBERS, 1);
        bytes memory signatures = _sign(report, SEATS);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnknownMember.selector, MEMBERS));
        settlement.settle(report, SEATS, signatures);
        report.slashes = new Slash[](16);
        for (uint32 i; i < 16; ++i) {
            report.slashes[i] = Slash(i % MEMBERS, 1 ether);
        }
        _settle(report);
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE - 16 ether);
    }
}
