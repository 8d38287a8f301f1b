// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AuditBase} from "./AuditBase.sol";
import {Merkle} from "./Merkle.sol";
import {Misconduct} from "../src/Misconduct.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report} from "../src/libraries/Reports.sol";
import {TaskTerms, Terms} from "../src/libraries/TaskTerms.sol";

/// @notice Finding 1: an operator took everything that was delegated to it, with a task of its own. Now no slash enriches
/// anybody by more than a tenth of the slashed operator's own stake, and own stake is a fifth of a lock at least.
contract AuditDelegationTheftTest is AuditBase {
    uint256 private constant DELEGATED = 300 ether;
    uint256 private constant OWN = 75 ether;

    address private operator;
    address private alice;

    function setUp() public override {
        super.setUp();
        operator = _person(900, OWN);
        alice = _person(901, DELEGATED);
        vm.prank(operator);
        vault.setAcceptance(true);
        vm.prank(alice);
        vault.delegate(operator, DELEGATED);
    }

    function _ownTask() private view returns (Terms memory terms) {
        terms = _terms();
        (terms.pool, terms.minStake, terms.maxSlots) = (0, uint128(OWN / 2), 10);
        (terms.numVoters, terms.minMembers, terms.maxMembers, terms.numEpochs) = (1, 1, 1, 1);
    }

    /// @dev A task of the operator's, which nobody else joins.
    function _createOwn(Terms memory terms) private {
        vm.prank(operator);
        TASK = tasks.createTask(terms, SEED);
        digests[TASK] = keccak256(abi.encode(operator, terms));
    }

    /// @dev As far as it can get: it lists itself as a creator, and its delegator does not leave in time.
    function _begin() private {
        vm.prank(operator);
        vault.stake(OWN);
        _list(operator, operator);
        _passDelays();
        _createOwn(_ownTask());
        _join(TASK, operator, uint128(OWN + DELEGATED));
        tasks.start(TASK);
    }

    function _end(Report memory report) private {
        bytes memory signature = _signedBy(operator, settlement.reportDigest(report));
        vm.prank(operator);
        settlement.settle(report, 1, signature);
    }

    function test_1_WhoOwnsNothingLocksNothing() public {
        _list(operator, operator);
        _passDelays();
        vm.assertEq(vault.lockable(operator, operator), 0);
        _createOwn(_ownTask());
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, 0, DELEGATED));
        _join(TASK, operator, uint128(DELEGATED));
    }

    /// @dev In one block, as the attack was: a creator that was listed only now has no hold on delegators.
    function test_1_OwnTaskGetsNoDelegatedStakeAtOnce() public {
        vm.prank(operator);
        vault.stake(OWN);
        _list(operator, operator);
        _createOwn(_ownTask());
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeUnavailable.selector, OWN, OWN + DELEGATED));
        _join(TASK, operator, uint128(OWN + DELEGATED));
        _join(TASK, operator, uint128(OWN));
        tasks.start(TASK);
        Report memory report = _report(TASK);
        report.slashes = _slashes(0, type(uint128).max);
        report.relayer = operator;
        _end(report);
        vm.assertEq(vault.delegation(operator, alice).assets, DELEGATED);
        vm.assertEq(_wealth(operator), OWN / 10);
    }

    /// @dev Who sees the list in time is out before the pool serves the creator.
    function test_1_DelegatorsLeaveBeforeACreatorCounts() public {
        vm.prank(operator);
        vault.stake(OWN);
        _list(operator, operator);
        vm.startPrank(alice);
        uint32 epoch = vault.currentEpoch();
        vault.undelegate(operator, DELEGATED);
        vm.stopPrank();
        _passDelays();
        vm.prank(alice);
        vm.assertEq(vault.withdraw(operator, epoch), DELEGATED);
    }

    function test_1_ReportOfItsOwnTaskEnrichesNobody() public {
        _begin();
        Report memory report = _report(TASK);
        report.slashes = _slashes(0, type(uint128).max);
        report.relayer = operator;
        _end(report);
        vm.assertEq(vault.delegation(operator, alice).assets, 0); // it can do harm, but
        vm.assertEq(_wealth(operator), OWN / 10); // it loses nine tenths of what is its own
        vm.assertEq(token.balanceOf(SINK), DELEGATED + OWN - OWN / 10); // and all the rest is nobody's
    }

    function test_1_ItsOwnEquivocationsEnrichNobody() public {
        _begin();
        address puppet = address(0xACC);
        for (uint256 i; i < 12; ++i) {
            string memory kind = string(abi.encodePacked("made up kind ", bytes1(uint8(65 + i))));
            bytes memory both = _contradiction(operator, 1, kind);
            vm.expectRevert(abi.encodeWithSelector(Misconduct.UnknownKind.selector, kind));
            settlement.slashEquivocation(TASK, operator, 1, "seed", kind, "one", "other", both);
        }
        for (uint64 epoch = 1; epoch <= 2; ++epoch) {
            bytes memory both = _contradiction(operator, epoch, "acknowledgement");
            vm.prank(puppet);
            settlement.slashEquivocation(TASK, operator, epoch, "seed", "acknowledgement", "one", "other", both);
        }
        _end(_report(TASK));
        vm.warp(tasks.releasableAt(TASK));
        tasks.release(TASK, operator);
        vm.assertEq(vault.pool(operator).own, 0); // which was lost first
        vm.assertEq(token.balanceOf(puppet), OWN / 10);
        vm.assertEq(_wealth(operator) + token.balanceOf(CREATOR), 100_000 ether); // the creator had it before
        uint256 lost = DELEGATED - vault.delegation(operator, alice).assets;
        vm.assertEq(token.balanceOf(SINK), lost + OWN - OWN / 10);
    }

    /// @dev Whatever is slashed, and however its parts lie: the operator and its puppets end with less.
    function testFuzz_1_NoSlashPays(uint256 own, uint128 amount, bool itself) public {
        own = bound(own, 1, 10 * OWN);
        token.transfer(operator, own);
        vm.prank(operator);
        vault.stake(own);
        _begin();
        uint256 before = _wealth(operator);
        uint256 part = vault.lockOf(TASK, operator).own;
        vm.assertLe(OWN + DELEGATED, 5 * part, "a fifth");
        Report memory report = _report(TASK);
        report.slashes = _slashes(0, amount);
        report.relayer = itself ? operator : RELAYER;
        _end(report);
        uint256 taken = amount < part ? amount : part;
        vm.assertEq(_wealth(operator) + token.balanceOf(RELAYER), before - taken + taken / 10);
    }

    /// @notice Ransom. A task that does not start ends within a month, and whoever waits may end it.
    function test_1_JoiningDoesNotHoldForEver() public {
        Terms memory terms = _ownTask();
        terms.joinWindow = 30 days + 1;
        vm.expectRevert(abi.encodeWithSelector(TaskTerms.InvalidTerms.selector, "joinWindow"));
        tasks.createTask(terms, SEED);
        terms.joinWindow = 30 days;
        (terms.minMembers, terms.maxMembers) = (2, 2); // never full
        vm.prank(operator);
        vault.stake(OWN);
        _list(operator, operator);
        _passDelays();
        _createOwn(terms);
        _join(TASK, operator, uint128(OWN + DELEGATED));
        vm.startPrank(alice);
        uint32 epoch = vault.currentEpoch();
        vault.undelegate(operator, DELEGATED);
        vm.warp(block.timestamp + 30 days);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, DELEGATED, 0));
        vault.withdraw(operator, epoch);
        tasks.start(TASK);
        tasks.release(TASK, operator);
        vm.assertEq(vault.withdraw(operator, epoch), DELEGATED);
        vm.stopPrank();
    }

    /// @notice Nor does one that nobody settles: whoever waits gives its epochs up, one after another.
    function test_1_RunningDoesNotHoldForEver() public {
        Terms memory terms = _ownTask();
        (terms.numEpochs, terms.maxSkips, terms.epochDeadline, terms.maxUnsettled) = (10, 11, 7 days, 51);
        vm.prank(operator);
        vault.stake(OWN);
        _list(operator, operator);
        _passDelays();
        _createOwn(terms);
        _join(TASK, operator, uint128(OWN + DELEGATED));
        tasks.start(TASK);
        uint256 began = block.timestamp;
        vm.startPrank(alice);
        uint32 asked = vault.currentEpoch();
        vault.undelegate(operator, DELEGATED);
        for (uint64 epoch = 1; epoch <= 10; ++epoch) {
            vm.warp(block.timestamp + 52 * 7 days + 1);
            settlement.abandon(TASK, epoch);
        }
        vm.warp(block.timestamp + EVIDENCE_WINDOW);
        tasks.release(TASK, operator);
        vm.assertEq(vault.withdraw(operator, asked), DELEGATED);
        vm.stopPrank();
        vm.assertLe(block.timestamp - began, 10 * 365 days + 10 + EVIDENCE_WINDOW, "the longest life");
    }
}

/// @notice Finding 5: one captured epoch took all rewards of earlier ones that nobody had claimed. The root stays cumulative;
/// whoever claims for everybody, epoch by epoch, bounds what there is to take.
contract AuditRootTest is AuditBase {
    address private constant THIEF = address(0x7415F);

    uint256[] private earned;
    bytes32[] private nodes;

    /// @dev Two honest epochs, of which the first `count` members are paid.
    function _fairEpochs(uint256 count) private {
        _run(_terms());
        earned = new uint256[](MEMBERS);
        for (uint256 left = EPOCHS; left > 1; --left) {
            Report memory fair = _report(TASK);
            uint256 each = distributor.budget(TASK, left) / MEMBERS;
            for (uint256 i; i < MEMBERS; ++i) {
                earned[i] += each;
            }
            nodes = _tree(TASK, earned);
            (fair.rewardsRoot, fair.rewardsTotal) = (nodes[0], uint128(earned[0] * MEMBERS));
            _settle(fair);
            if (count != 0) _claimMany(nodes, earned, count);
        }
    }

    /// @dev The last epoch's quorum names one leaf for itself.
    function _capture(uint256 leaf) private {
        Report memory report = _report(TASK);
        report.rewardsTotal += distributor.budget(TASK, 1);
        report.rewardsRoot = _leaf(TASK, THIEF, leaf);
        _settle(report);
    }

    /// forge-config: default.fuzz.runs = 32
    function testFuzz_5_CaptureTakesNoMoreThanIsUnclaimed(uint256 count) public {
        count = bound(count, 0, MEMBERS);
        _fairEpochs(count);
        uint256 most = distributor.budget(TASK, 1) + (MEMBERS - count) * earned[0];
        _capture(most + 1);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.ClaimExceedsCommitted.selector, most, most + 1));
        distributor.claim(TASK, THIEF, most + 1, new bytes32[](0));
        for (uint256 i; i < count; ++i) {
            vm.assertEq(token.balanceOf(members[i]), earned[i]);
        }
    }

    function test_5_CaptureAfterClaimsTakesItsOwnBudget() public {
        _fairEpochs(MEMBERS);
        uint256 budget = distributor.budget(TASK, 1);
        _capture(budget);
        distributor.claim(TASK, THIEF, budget, new bytes32[](0));
        vm.assertEq(token.balanceOf(THIEF), POOL / EPOCHS);
        vm.assertEq(token.balanceOf(address(distributor)), 0);
    }
}

/// @notice Finding 6: the creator got the end share back when the last epoch was not settled. Now it goes to the sink.
contract AuditEndShareTest is AuditBase {
    function _shared(uint32 numEpochs) private view returns (Terms memory terms) {
        terms = _terms();
        (terms.endShareBps, terms.numEpochs, terms.maxSkips) = (5_000, numEpochs, 5);
    }

    function test_6_AbandonedLastEpochGivesTheEndShareAway() public {
        uint256 before = token.balanceOf(CREATOR);
        _run(_shared(EPOCHS));
        for (uint256 left = EPOCHS; left > 1; --left) {
            _settlePaying(left);
        }
        vm.warp(block.timestamp + 2 * DEADLINE + 1);
        vm.expectEmit(address(distributor));
        emit RewardDistributor.Sunk(TASK, POOL / 2);
        settlement.abandon(TASK, EPOCHS);
        vm.assertEq(POOL - (before - token.balanceOf(CREATOR)), POOL / 6); // its part of what was not reserved
        vm.assertEq(token.balanceOf(SINK), POOL / 2);
        tasks.refund(TASK);
        vm.assertEq(POOL - (before - token.balanceOf(CREATOR)), POOL / 6);
    }

    /// @dev The creator's own members resign in time, so that the last epoch has too few slots.
    function test_6_ResignationsBeforeTheLastEpochGiveItAwayToo() public {
        uint256 before = token.balanceOf(CREATOR);
        _run(_shared(6)); // members 4..7 are the creator's
        for (uint256 epoch = 1; epoch <= 5; ++epoch) {
            for (uint256 i = 4; epoch == 3 && i < 8; ++i) {
                vm.prank(members[i]); // last settled: 2; it counts from the last epoch on
                tasks.resign(TASK);
            }
            _settlePaying(7 - epoch);
        }
        vm.assertTrue(tasks.taskInfo(TASK).status == TaskRegistry.Status.Closed, "closed after 5 of 6");
        vm.assertEq(POOL - (before - token.balanceOf(CREATOR)), POOL / 12);
        vm.assertEq(token.balanceOf(SINK), POOL / 2);
    }

    function test_6_SkipsInARowGiveItAwayToo() public {
        Terms memory terms = _shared(EPOCHS);
        terms.maxSkips = 1;
        _run(terms);
        vm.warp(block.timestamp + 2 * DEADLINE + 1);
        settlement.abandon(TASK, 1);
        vm.assertEq(token.balanceOf(SINK), POOL / 2);
    }

    function test_6_SettledLastEpochMayLeaveItToTheCreator() public {
        uint256 before = token.balanceOf(CREATOR);
        _run(_shared(EPOCHS));
        for (uint256 i; i < EPOCHS; ++i) {
            _settle(_report(TASK));
        }
        vm.assertEq(token.balanceOf(CREATOR), before);
        vm.assertEq(token.balanceOf(SINK), 0);
    }

    function test_6_TaskThatNeverStartedGivesAllBack() public {
        uint256 before = token.balanceOf(CREATOR);
        _create(_shared(EPOCHS));
        vm.warp(block.timestamp + 1000);
        tasks.start(TASK);
        vm.assertEq(token.balanceOf(CREATOR), before);
        vm.assertEq(token.balanceOf(SINK), 0);
    }
}

/// @notice Finding 8: whoever delegated between a report and its activation took the rewards of those that had answered.
contract AuditJustInTimeTest is AuditBase {
    address private operator;
    address private alice;
    address private friend;

    function _activationDelay() internal pure override returns (uint64) {
        return VAULT_EPOCH / 4; // the longest that the vault accepts
    }

    /// @dev A report that pays the operator 100 tokens, settled as late in a vault epoch as fits with what comes then.
    function _settleLate() private {
        operator = _staker(960, STAKE);
        alice = _person(961, STAKE);
        friend = _person(962, 99 * STAKE);
        vm.prank(operator);
        vault.setAcceptance(true);
        vm.prank(alice);
        vault.delegate(operator, STAKE);
        _list(operator, CREATOR);
        _passDelays();
        vm.warp((block.timestamp / VAULT_EPOCH + 1) * VAULT_EPOCH - 1); // the next vault epoch begins in a second
        Terms memory terms = _terms();
        terms.maxMembers = MEMBERS + 1;
        _create(terms);
        _join(TASK, operator, STAKE);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        tasks.start(TASK);
        Report memory report = _report(TASK);
        report.rewardsTotal = 100 ether;
        report.rewardsRoot = _leaf(TASK, operator, 100 ether);
        _settle(report);
    }

    function test_8_LateDelegatorHasNoPart() public {
        _settleLate();
        vm.prank(friend); // sees the report
        vault.delegate(operator, 99 * STAKE);
        uint256 settled = block.timestamp;
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, operator, 100 ether));
        distributor.claimToPool(TASK, operator, 100 ether, new bytes32[](0)); // alice tries at once
        vm.warp(settled + VAULT_EPOCH / 4 + VAULT_EPOCH / 2); // and has half an epoch's time when the root pays
        distributor.claimToPool(TASK, operator, 100 ether, new bytes32[](0));
        vm.assertLe(50 ether, vault.pendingRewards(operator, alice) + 1, "half is hers");
        vm.assertEq(vault.pendingRewards(operator, friend), 0);
        vm.warp(settled + 3 * VAULT_EPOCH);
        vm.assertEq(vault.pendingRewards(operator, friend), 0);
    }

    function test_8_ActivationIsNoLongerThanAQuarterOfAVaultEpoch() public {
        StakeVault.Settings memory settings = StakeVault.Settings(VAULT_EPOCH - 1, UNBONDING, UNBONDING + 1, MINIMUM);
        vm.expectRevert(StakeVault.InvalidSettings.selector);
        new StakeVault(token, address(tasks), address(distributor), settings);
        settings.epochLength += 1;
        new StakeVault(token, address(tasks), address(distributor), settings);
    }
}

/// @notice Finding 9: delegators paid for slashes of a task whose rewards were the operator's alone.
contract AuditEarlierTaskTest is AuditBase {
    function test_9_LaterDelegatorsDoNotAnswerForTheEarlierTask() public {
        address operator = _staker(950, 2 * STAKE);
        address bob = _person(951, 3 * STAKE);
        _list(operator, CREATOR);
        _passDelays();
        Terms memory terms = _terms();
        terms.maxMembers = MEMBERS + 1;
        _create(terms);
        bytes32 other = _create(keccak256("other seed"), terms);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
            _join(other, members[i], STAKE);
        }
        _join(TASK, operator, STAKE); // with its own stake, before anybody delegates
        tasks.start(TASK);
        vm.prank(operator);
        vault.setAcceptance(true);
        vm.prank(bob);
        vault.delegate(operator, 3 * STAKE);
        _join(other, operator, STAKE);
        tasks.start(other);
        vm.assertTrue(!distributor.paidToPool(TASK, operator), "the earlier task pays the operator alone");
        vm.assertTrue(distributor.paidToPool(other, operator), "the later one its pool");
        vm.assertEq(vault.lockOf(TASK, operator).delegated, 0);
        vm.assertEq(vault.lockOf(other, operator).own, STAKE / 4); // its part of what was free

        Report memory report = _report(other);
        report.slashes = _slashes(MEMBERS, STAKE);
        _settle(report);
        vm.assertEq(vault.delegation(operator, bob).assets, 3 * STAKE - 3 * STAKE / 4);
        report = _report(TASK);
        report.slashes = _slashes(MEMBERS, STAKE);
        _settle(report);
        vm.assertEq(tasks.memberAt(TASK, MEMBERS).stake, 0);
        vm.assertEq(vault.delegation(operator, bob).assets, 3 * STAKE - 3 * STAKE / 4);
        vm.assertEq(vault.pool(operator).own, 3 * STAKE / 4);
    }
}

/// @notice OpenZeppelin GHSA-wprv-93r4-jj2p: multiproofs that prove any leaf. This held before.
contract AuditMultiproofTest is AuditBase {
    function testFuzz_ForgedMultiproofs(uint256 seed, uint8 leaves, uint8 proofs) public {
        _run(_terms());
        uint256[] memory earned = new uint256[](4);
        for (uint256 i; i < 4; ++i) {
            earned[i] = 1 ether;
        }
        bytes32[] memory nodes = _tree(TASK, earned);
        Report memory report = _report(TASK);
        (report.rewardsRoot, report.rewardsTotal) = (nodes[0], 4 ether);
        _settle(report);
        uint256 n = bound(leaves, 1, 4);
        uint256 m = bound(proofs, 0, 5);
        address[] memory accounts = new address[](n);
        uint256[] memory amounts = new uint256[](n);
        for (uint256 i; i < n; ++i) {
            (accounts[i], amounts[i]) = (address(uint160(0xBAD0 + i)), 1 ether);
        }
        bytes32[] memory proof = new bytes32[](m);
        for (uint256 i; i < m; ++i) {
            proof[i] = nodes[uint256(keccak256(abi.encode(seed, i))) % nodes.length];
        }
        bool[] memory flags = new bool[]((seed >> 8) % 2 == 0 ? n + m - 1 : (seed >> 9) % 8);
        for (uint256 i; i < flags.length; ++i) {
            flags[i] = (seed >> (16 + i)) & 1 == 1;
        }
        (bool done,) =
            address(distributor).call(abi.encodeCall(distributor.claimMany, (TASK, accounts, amounts, proof, flags)));
        vm.assertTrue(!done, "refused");
        vm.assertEq(distributor.accountOf(TASK).claimed, 0);
        distributor.claim(TASK, members[0], 1 ether, Merkle.prove(nodes, _leaf(TASK, members[0], 1 ether)));
    }
}
