// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Fixture} from "./Fixture.sol";
import {Merkle} from "./Merkle.sol";
import {Committees} from "../src/Committees.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice The distributor with a delay of six hours between settlement and payment, and its guardian.
contract DistributorTest is Fixture {
    uint64 private constant DELAY = 6 hours;
    uint256 private constant SEATS = 7;
    uint128 private constant ALL = 8; // members

    uint256[] private earned;
    bytes private encoded; // the last report

    function _activationDelay() internal pure override returns (uint64) {
        return DELAY;
    }

    function setUp() public override {
        super.setUp();
        Terms memory terms = _terms();
        terms.numEpochs = 6;
        terms.epochDeadline = 7 days;
        _run(terms);
        earned = new uint256[](MEMBERS);
    }

    function _last() private view returns (Report memory) {
        return abi.decode(encoded, (Report));
    }

    /// @dev A report in which every member earns `amount` more.
    function _paying(uint128 amount) private returns (Report memory report, bytes32[] memory nodes) {
        report = _report(TASK);
        for (uint256 i; i < MEMBERS; ++i) {
            earned[i] += amount;
            report.rewardsTotal += amount;
        }
        nodes = _tree(TASK, earned);
        report.rewardsRoot = nodes[0];
    }

    function _pay(uint128 amount) private returns (bytes32[] memory nodes) {
        Report memory report;
        (report, nodes) = _paying(amount);
        encoded = abi.encode(report);
        _settle(report);
    }

    function _claim(bytes32[] memory nodes, uint256 member, uint256 cumulative) private {
        distributor.claim(
            TASK, members[member], cumulative, Merkle.prove(nodes, _leaf(TASK, members[member], cumulative))
        );
    }

    function _disable(bytes32 root) private {
        vm.prank(GUARDIAN);
        distributor.disable(TASK, root);
    }

    function _correct(bytes32 disabled, bytes32 root, uint128 total) private {
        bytes32 digest = settlement.correctionDigest(settlement.reportHash(_last()), disabled, root, total);
        bytes memory signatures = _signSeats(digest);
        settlement.correct(_last(), root, total, SEATS, signatures);
    }

    /// @dev Signatures of the first three seats of the last report's committee.
    function _signSeats(bytes32 digest) private view returns (bytes memory signatures) {
        uint256[] memory slots = settlement.drawSeats(_last().seed, TASK, _last().epoch, MEMBERS, VOTERS);
        address[] memory voters = tasks.slotOwners(TASK, slots);
        for (uint256 seat; seat < 3; ++seat) {
            signatures = bytes.concat(signatures, _signedBy(voters[seat], digest));
        }
    }

    function test_RootPaysAfterDelay() public {
        bytes32[] memory nodes = _pay(1 ether);
        bytes32[] memory proof = Merkle.prove(nodes, _leaf(TASK, members[0], 1 ether));
        bytes memory refused =
            abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, members[0], 1 ether);
        vm.warp(block.timestamp + DELAY - 1);
        vm.expectRevert(refused);
        distributor.claim(TASK, members[0], 1 ether, proof);
        vm.warp(block.timestamp + 1);
        distributor.claim(TASK, members[0], 1 ether, proof); // no poke needed
        vm.assertEq(token.balanceOf(members[0]), 1 ether);
    }

    /// @dev Settlements that come faster than the delay do not put it off for ever: each root's time counts from its own.
    function test_FastSettlementsDoNotStarveClaims() public {
        uint256 begin = block.timestamp;
        bytes32[] memory first = _pay(1 ether);
        vm.warp(begin + DELAY / 2);
        _pay(1 ether);
        vm.warp(begin + DELAY * 3 / 4);
        bytes32[] memory third = _pay(1 ether);
        vm.warp(begin + DELAY);
        _claim(first, 0, 1 ether);
        vm.warp(begin + DELAY * 7 / 4 - 1);
        vm.expectRevert();
        this.claimOf(third, 0, 3 ether);
        vm.warp(begin + DELAY * 7 / 4);
        distributor.promote(TASK);
        vm.assertEq(distributor.accountOf(TASK).root, third[0]);
        _claim(third, 0, 3 ether); // the second root was never active, and nothing of it is lost
        vm.assertEq(distributor.claimed(TASK, members[0]), 3 ether);
    }

    function claimOf(bytes32[] memory nodes, uint256 member, uint256 cumulative) external {
        _claim(nodes, member, cumulative);
    }

    function test_MatureRootIsPromotedAtNextSettlement() public {
        bytes32[] memory first = _pay(1 ether);
        vm.warp(block.timestamp + DELAY);
        bytes32[] memory second = _pay(1 ether);
        vm.assertEq(distributor.accountOf(TASK).root, first[0]);
        vm.assertEq(distributor.queueOf(TASK).first.root, second[0]);
        vm.assertEq(distributor.queueOf(TASK).activeTotal, ALL * 1 ether);
    }

    function test_OnlyGuardianDisables() public {
        bytes32[] memory nodes = _pay(1 ether);
        bytes32 role = distributor.GUARDIAN_ROLE();
        vm.prank(ADMIN); // who may name guardians, but is none
        vm.expectRevert(abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, ADMIN, role));
        distributor.disable(TASK, nodes[0]);
        vm.prank(GUARDIAN);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotPending.selector, TASK, bytes32("other")));
        distributor.disable(TASK, "other");
        vm.warp(block.timestamp + DELAY);
        vm.prank(GUARDIAN); // too late: its time has come
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotPending.selector, TASK, nodes[0]));
        distributor.disable(TASK, nodes[0]);
    }

    function test_DisabledRootFreezesUntilCorrection() public {
        bytes32[] memory good = _pay(1 ether);
        vm.warp(block.timestamp + DELAY);
        earned[7] += 100 ether; // a calculator's mistake
        Report memory bad = _report(TASK);
        bad.rewardsTotal = ALL * 1 ether + 100 ether;
        bad.rewardsRoot = _tree(TASK, earned)[0];
        encoded = abi.encode(bad);
        _settle(bad);
        _disable(bad.rewardsRoot);
        _claim(good, 0, 1 ether); // what is active pays on

        Report memory next = _report(TASK);
        bytes memory signatures = _sign(next, SEATS);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.Frozen.selector, TASK, bad.rewardsRoot));
        settlement.settle(next, SEATS, signatures);
        vm.warp(block.timestamp + DELAY); // waiting heals nothing
        distributor.promote(TASK);
        vm.assertEq(distributor.accountOf(TASK).root, good[0]);

        earned[7] -= 90 ether;
        bytes32[] memory corrected = _tree(TASK, earned);
        _correct(bad.rewardsRoot, corrected[0], ALL * 1 ether + 10 ether);
        vm.assertEq(distributor.accountOf(TASK).committed, ALL * 1 ether + 10 ether);
        vm.assertEq(tasks.taskInfo(TASK).poolLeft, POOL - ALL * 1 ether - 10 ether);
        vm.warp(block.timestamp + DELAY);
        _claim(corrected, 7, 11 ether);
        _pay(1 ether);
        _checkHoldings(TASK, 0);
    }

    function test_CorrectionIsBounded() public {
        _pay(1 ether);
        vm.warp(block.timestamp + DELAY);
        bytes32[] memory nodes = _pay(2 ether);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NotFrozen.selector, TASK));
        this.correct(0, "root", ALL * 3 ether);
        _disable(nodes[0]);
        (uint128 low, uint128 high) = (ALL * 1 ether, ALL * 3 ether);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.WrongCorrection.selector, low, high, low - 1));
        this.correct(nodes[0], "root", low - 1);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.WrongCorrection.selector, low, high, high + 1));
        this.correct(nodes[0], "root", high + 1);
        _correct(nodes[0], "root", high);
        // The same signatures end no other freeze.
        _disable("root");
        bytes32 digest = settlement.correctionDigest(settlement.reportHash(_last()), nodes[0], "root", high);
        bytes memory signatures = _signSeats(digest);
        vm.expectRevert();
        settlement.correct(_last(), "root", high, SEATS, signatures);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.Unauthorized.selector, address(this)));
        distributor.correct(TASK, "root", high);
    }

    function correct(bytes32 disabled, bytes32 root, uint128 total) external {
        _correct(disabled, root, total);
    }

    /// @dev Neither too few seats, nor the committee of another epoch, nor the guardian itself corrects.
    function test_CorrectionNeedsQuorumOfItsEpoch() public {
        _pay(1 ether);
        Report memory before = _last();
        bytes32[] memory nodes = _pay(1 ether);
        _disable(nodes[0]);
        bytes32 digest =
            settlement.correctionDigest(settlement.reportHash(_last()), nodes[0], "root", _last().rewardsTotal);
        bytes memory signatures = _signSeats(digest);
        vm.expectRevert(abi.encodeWithSelector(Committees.QuorumMissing.selector, 3, 2));
        settlement.correct(_last(), "root", _last().rewardsTotal, 3, signatures);
        vm.expectRevert(
            abi.encodeWithSelector(
                Committees.NotLastReport.selector, settlement.reportHash(_last()), settlement.reportHash(before)
            )
        );
        settlement.correct(before, "root", _last().rewardsTotal, SEATS, signatures);
        address[] memory next = settlement.committee(TASK);
        signatures = bytes.concat(_signedBy(next[0], digest), _signedBy(next[1], digest), _signedBy(next[2], digest));
        vm.expectRevert();
        settlement.correct(_last(), "root", _last().rewardsTotal, SEATS, signatures);
    }

    /// @dev A guardian that disables the newer of two roots leaves the older one its time.
    function test_OlderPendingRootSurvives() public {
        bytes32[] memory first = _pay(1 ether);
        vm.warp(block.timestamp + 1);
        bytes32[] memory second = _pay(1 ether);
        _disable(second[0]);
        vm.expectRevert(
            abi.encodeWithSelector(
                RewardDistributor.WrongCorrection.selector, ALL * 1 ether, ALL * 2 ether, ALL * 1 ether - 1
            )
        );
        this.correct(second[0], first[0], ALL * 1 ether - 1);
        vm.warp(block.timestamp + DELAY);
        _claim(first, 0, 1 ether);
        _correct(second[0], second[0], ALL * 2 ether); // the committee may insist
        vm.warp(block.timestamp + DELAY);
        _claim(second, 0, 2 ether);
    }

    /// @dev What a correction sets free after the last epoch goes back to the creator; claims stay covered.
    function test_CorrectionAfterCloseRefunds() public {
        for (uint256 i; i < 5; ++i) {
            _settle(_report(TASK));
        }
        bytes32[] memory nodes = _pay(10 ether);
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
        uint256 before = token.balanceOf(CREATOR);
        _disable(nodes[0]);
        for (uint256 i; i < MEMBERS; ++i) {
            earned[i] = 4 ether;
        }
        bytes32[] memory corrected = _tree(TASK, earned);
        _correct(nodes[0], corrected[0], ALL * 4 ether);
        tasks.refund(TASK);
        vm.assertEq(token.balanceOf(CREATOR), before + ALL * 6 ether);
        vm.warp(block.timestamp + DELAY);
        for (uint256 i; i < MEMBERS; ++i) {
            _claim(corrected, i, 4 ether);
        }
        vm.assertEq(token.balanceOf(address(distributor)), 0);
    }

    function test_OnlyItsContractsMoveMoney() public {
        bytes memory denied = abi.encodeWithSelector(RewardDistributor.Unauthorized.selector, ADMIN);
        vm.startPrank(ADMIN);
        vm.expectRevert(denied);
        distributor.deposit(TASK, 1, 0);
        vm.expectRevert(denied);
        distributor.refund(TASK, ADMIN, ADMIN, true);
        vm.expectRevert(denied);
        distributor.depositEscrow(TASK, 1);
        vm.expectRevert(denied);
        distributor.commit(TASK, "root", 1, 1);
        vm.stopPrank();
        vm.expectRevert(
            abi.encodeWithSelector(
                TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Closed, TaskRegistry.Status.Running
            )
        );
        tasks.refund(TASK);
    }
}
