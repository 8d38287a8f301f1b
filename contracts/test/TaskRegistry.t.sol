// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Fixture} from "./Fixture.sol";
import {EpochSettlement} from "../src/EpochSettlement.sol";
import {Committees} from "../src/Committees.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report} from "../src/libraries/Reports.sol";
import {TaskTerms, Terms} from "../src/libraries/TaskTerms.sol";

contract TaskRegistryTest is Fixture {
    function test_OnlySettlementSlashesAndCloses() public {
        _run(_terms());
        bytes memory denied = abi.encodeWithSelector(TaskRegistry.Unauthorized.selector, STRANGER);
        vm.startPrank(STRANGER);
        vm.expectRevert(denied);
        tasks.slash(TASK, 1, _slashes(0, 1 ether), STRANGER);
        vm.expectRevert(denied);
        tasks.close(TASK);
    }

    function test_AdminDecidesWhoCreates() public {
        bytes32 role = tasks.CREATOR_ROLE();
        bytes32 adminRole = tasks.DEFAULT_ADMIN_ROLE();
        bytes4 denied = IAccessControl.AccessControlUnauthorizedAccount.selector;
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(denied, STRANGER, adminRole));
        tasks.setOpenToAll(false);
        vm.prank(ADMIN);
        tasks.setOpenToAll(false);
        vm.prank(CREATOR);
        vm.expectRevert(abi.encodeWithSelector(denied, CREATOR, role));
        tasks.createTask(_terms(), SEED);
        vm.prank(ADMIN);
        tasks.grantRole(role, CREATOR);
        _create(_terms());
        vm.prank(ADMIN);
        tasks.setOpenToAll(true);
        vm.prank(ADMIN);
        tasks.revokeRole(role, CREATOR);
        _create(keccak256("other seed"), _terms());
    }

    /// @dev A task may not promise more new money than the schedule of the day grants to its epochs, to the wei.
    function testFuzz_PoolWithinEmission(uint32 numEpochs, uint256 day) public {
        Terms memory terms = _terms();
        terms.numEpochs = uint32(bound(numEpochs, 1, 9));
        day = bound(day, 0, 400);
        vm.warp(block.timestamp + day * 1 days);
        uint256 maximum = terms.numEpochs * 10 * emission.emission(day);
        terms.pool = uint128(maximum) + 1;
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.PoolTooLarge.selector, maximum, maximum + 1));
        tasks.createTask(terms, SEED);
        terms.pool -= 1;
        _create(terms);
    }

    function test_CreateEscrowsPool() public {
        uint256 before = token.balanceOf(CREATOR);
        _create(_terms());
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertEq(before - token.balanceOf(CREATOR), POOL);
        vm.assertEq(token.balanceOf(address(distributor)), POOL);
        _checkHoldings(TASK, 0);
        vm.assertEq(info.poolLeft, POOL);
        vm.assertEq(info.creator, CREATOR);
        vm.assertEq(uint256(info.status), uint256(TaskRegistry.Status.Joining));
        vm.assertEq(info.seed, keccak256("genesis"));
        vm.assertEq(info.terms.modelHash, _terms().modelHash);
        vm.assertEq(info.terms.targetSetHash, _terms().targetSetHash);
        vm.assertEq(info.terms.termsHash, _terms().termsHash);
    }

    /// @dev The identifier follows from creator, terms and seed: each of them makes another task, all together make one once.
    function test_IdentifierFollowsFromCreatorTermsAndSeed() public {
        Terms memory terms = _terms();
        _create(terms);
        bytes32 digest = keccak256(abi.encode(CREATOR, terms));
        vm.assertEq(TASK, keccak256(abi.encode(keccak256("flock_ray/task/2"), digest, SEED)));
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskExists.selector, TASK));
        vm.prank(CREATOR);
        tasks.createTask(terms, SEED);
        vm.assertNotEq(_create(keccak256("other seed"), terms), TASK);
        terms.pool = 0;
        vm.assertNotEq(_create(SEED, terms), TASK);
        vm.prank(STRANGER);
        vm.assertNotEq(tasks.createTask(terms, SEED), _create(keccak256("third seed"), terms));
        terms = _terms();
        terms.pool = 0;
        vm.prank(RELAYER);
        bytes32 foreign = tasks.createTask(terms, SEED);
        vm.assertNotEq(foreign, TASK);
        vm.assertEq(tasks.taskInfo(foreign).creator, RELAYER);
    }

    function test_TermsThatNoTaskCanRunWithAreRefused() public {
        Terms memory terms = _terms();
        terms.minStake = 0;
        _refused(terms, "minStake");
        terms.minStake = 1 << 96;
        _refused(terms, "minStake");
        terms = _terms();
        terms.maxSlots = 0;
        _refused(terms, "maxSlots");
        terms.maxSlots = 257;
        _refused(terms, "maxSlots");
        terms = _terms();
        terms.numVoters = 0;
        _refused(terms, "numVoters");
        terms.numVoters = 97;
        _refused(terms, "numVoters");
        terms = _terms();
        terms.numProposers = 0;
        _refused(terms, "numProposers");
        terms = _terms();
        terms.minMembers = 0;
        _refused(terms, "minMembers");
        terms = _terms();
        terms.maxMembers = terms.minMembers - 1;
        _refused(terms, "maxMembers");
        terms = _terms();
        terms.numVoters = terms.maxMembers * terms.maxSlots;
        _refused(terms, "maxMembers");
        terms = _terms();
        terms.numEpochs = 0;
        _refused(terms, "numEpochs");
        terms.numEpochs = 1 << 24;
        _refused(terms, "numEpochs");
        terms = _terms();
        terms.endShareBps = 10_001;
        _refused(terms, "endShareBps");
        terms = _terms();
        terms.maxSkips = 0;
        _refused(terms, "maxSkips");
        terms = _terms();
        terms.epochDeadline = 0;
        _refused(terms, "epochDeadline");
        terms = _terms();
        terms.epochDeadline = 7 days + 1;
        _refused(terms, "epochDeadline");
        terms = _terms();
        terms.joinWindow = 0;
        _refused(terms, "joinWindow");
        terms.joinWindow = 30 days + 1;
        _refused(terms, "joinWindow");
        vm.expectRevert(abi.encodeWithSelector(TaskTerms.InvalidTerms.selector, "seed"));
        tasks.createTask(_terms(), 0);
    }

    /// @dev All epochs, settled as late as may be, are over after ten years: no stake is held longer.
    function test_LifeIsBounded() public {
        Terms memory terms = _terms();
        terms.pool = 0;
        (terms.numEpochs, terms.epochDeadline, terms.maxUnsettled) = (10 * 365, 1 days, 0);
        _create(terms);
        terms.numEpochs += 1;
        _refused(terms, "numEpochs");
        (terms.numEpochs, terms.epochDeadline, terms.maxUnsettled) = (1, 5 days, 729);
        _create(terms);
        terms.maxUnsettled = 730;
        _refused(terms, "numEpochs");
        // nor does the product wrap round
        (terms.numEpochs, terms.epochDeadline, terms.maxUnsettled) = (type(uint24).max, 7 days, type(uint32).max);
        _refused(terms, "numEpochs");
        (terms.numEpochs, terms.epochDeadline, terms.joinWindow) = (1, 7 days, 30 days);
        terms.maxUnsettled = 1;
        _create(terms);
    }

    function test_SeedMayBeZeroWhereTheChainMakesIt() public {
        Terms memory terms = _terms();
        terms.fixedGenesis = false;
        _create(0, terms);
    }

    function _refused(Terms memory terms, string memory field) private {
        vm.expectRevert(abi.encodeWithSelector(TaskTerms.InvalidTerms.selector, field));
        tasks.createTask(terms, SEED);
    }

    function testFuzz_StakeBuysSlots(uint128 amount) public {
        amount = uint128(bound(amount, STAKE, WALLET));
        _create(_terms());
        _join(TASK, members[0], STAKE);
        _join(TASK, members[1], amount);
        TaskRegistry.Member memory member = tasks.memberAt(TASK, 1);
        uint256 slots = amount / STAKE > 4 ? 4 : amount / STAKE;
        vm.assertEq(member.account, members[1]);
        vm.assertEq(member.stake, amount);
        vm.assertEq(member.slots, slots);
        vm.assertEq(member.chainTip, keccak256(abi.encode("tip", members[1])));
        vm.assertEq(tasks.indexOf(TASK, members[1]), 1);
        vm.assertEq(tasks.taskInfo(TASK).numSlots, slots + 1);
        uint256[] memory numbers = new uint256[](slots + 1);
        for (uint256 slot = 1; slot <= slots; ++slot) {
            numbers[slot] = slot;
        }
        address[] memory owners = tasks.slotOwners(TASK, numbers);
        vm.assertEq(owners[0], members[0]);
        for (uint256 slot = 1; slot <= slots; ++slot) {
            vm.assertEq(owners[slot], members[1]);
        }
        numbers[slots] = slots + 1;
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnknownSlot.selector, slots + 1));
        tasks.slotOwners(TASK, numbers);
        _checkHoldings(TASK, 0);
    }

    function testFuzz_TooLittleStakeIsRefused(uint128 amount) public {
        amount = uint128(bound(amount, 0, STAKE - 1));
        _create(_terms());
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.InsufficientStake.selector, STAKE, amount));
        _join(TASK, members[0], amount);
    }

    function test_JoinsOnceAnAddress() public {
        _create(_terms());
        _join(TASK, members[0], STAKE);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.AlreadyMember.selector, members[0]));
        _join(TASK, members[0], STAKE);
    }

    function test_JoinNeedsTip() public {
        _create(_terms());
        vm.prank(members[0]);
        vm.expectRevert(TaskRegistry.InvalidChainTip.selector);
        tasks.join(TASK, STAKE, 0, digests[TASK]);
    }

    function test_JoinEndsAtDeadline() public {
        Terms memory terms = _terms();
        _create(terms);
        uint256 deadline = block.timestamp + terms.joinWindow;
        vm.assertEq(tasks.taskInfo(TASK).joinDeadline, deadline);
        vm.warp(deadline - 1);
        _join(TASK, members[0], STAKE);
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.JoinClosed.selector, deadline));
        _join(TASK, members[1], STAKE);
    }

    function test_JoinEndsWhenFull() public {
        Terms memory terms = _terms();
        terms.maxMembers = 5;
        _create(terms);
        for (uint256 i; i < 5; ++i) {
            _join(TASK, members[i], STAKE);
        }
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.TaskFull.selector, 5));
        _join(TASK, members[5], STAKE);
    }

    function test_JoinNeedsOpenTask() public {
        vm.expectRevert(
            abi.encodeWithSelector(
                TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Joining, TaskRegistry.Status.None
            )
        );
        _join(TASK, members[0], STAKE);
        _run(_terms());
        _abandon(1);
        _abandon(2);
        vm.expectRevert(
            abi.encodeWithSelector(
                TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Joining, TaskRegistry.Status.Closed
            )
        );
        _join(TASK, members[0], STAKE);
    }

    function test_UnknownMembers() public {
        _create(_terms());
        _join(TASK, members[0], STAKE);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnknownMember.selector, 1));
        tasks.memberAt(TASK, 1);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NotMember.selector, STRANGER));
        tasks.indexOf(TASK, STRANGER);
    }

    function testFuzz_MembersInPages(uint256 from, uint256 to) public {
        _create(_terms());
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        to = bound(to, 0, MEMBERS);
        from = bound(from, 0, to);
        TaskRegistry.Member[] memory page = tasks.membersOf(TASK, from, to);
        vm.assertEq(page.length, to - from);
        for (uint256 i; i < page.length; ++i) {
            vm.assertEq(keccak256(abi.encode(page[i])), keccak256(abi.encode(tasks.memberAt(TASK, from + i))));
        }
    }

    function test_PagesOfMembersHaveBounds() public {
        _create(_terms());
        _join(TASK, members[0], STAKE);
        vm.assertEq(tasks.membersOf(TASK, 7, 7).length, 0);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.UnknownMember.selector, 1));
        tasks.membersOf(TASK, 0, 2);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        tasks.membersOf(TASK, 1, 0);
    }

    function test_CreatorStartsEarlyStrangerWaits() public {
        Terms memory terms = _terms();
        _create(terms);
        for (uint256 i; i < 5; ++i) {
            _join(TASK, members[i], STAKE);
        }
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.Unauthorized.selector, STRANGER));
        tasks.start(TASK);
        uint256 deadline = block.timestamp + terms.joinWindow;
        vm.warp(deadline - 1);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.Unauthorized.selector, STRANGER));
        tasks.start(TASK);
        vm.warp(deadline);
        vm.prank(STRANGER);
        tasks.start(TASK);
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertEq(uint256(info.status), uint256(TaskRegistry.Status.Running));
        vm.assertEq(info.epochStart, deadline);
        vm.expectRevert(
            abi.encodeWithSelector(
                TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Joining, TaskRegistry.Status.Running
            )
        );
        tasks.start(TASK);
    }

    function test_AnybodyStartsFullTask() public {
        _create(_terms());
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        vm.prank(STRANGER);
        tasks.start(TASK);
        vm.assertEq(tasks.taskInfo(TASK).epochStart, block.timestamp);
    }

    function test_StartWaitsForMembersAndSlots() public {
        Terms memory terms = _terms();
        terms.minMembers = 2;
        _create(terms);
        _join(TASK, members[0], STAKE);
        vm.startPrank(CREATOR);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NotEnoughMembers.selector, 1, 1));
        tasks.start(TASK);
        vm.stopPrank();
        _join(TASK, members[1], 3 * STAKE); // four slots: enough for the voters, none left for a proposer
        vm.startPrank(CREATOR);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NotEnoughMembers.selector, 2, 4));
        tasks.start(TASK);
        vm.stopPrank();
        _join(TASK, members[2], STAKE);
        vm.prank(CREATOR);
        tasks.start(TASK);
    }

    function test_TaskThatFailsToFillClosesWithRefund() public {
        Terms memory terms = _terms();
        uint256 before = token.balanceOf(CREATOR);
        _create(terms);
        _join(TASK, members[0], 3 * STAKE);
        vm.warp(block.timestamp + terms.joinWindow);
        vm.prank(STRANGER);
        tasks.start(TASK);
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
        vm.assertEq(token.balanceOf(CREATOR), before);
        vm.assertEq(tasks.releasableAt(TASK), 0);
        tasks.release(TASK, members[0]); // at once: there is nothing to prove
        vm.assertEq(vault.lockable(members[0], CREATOR), WALLET);
    }

    /// @dev The first seed is the hash of the block after the start, whoever opens the task and when.
    function test_GenesisFromChain() public {
        Terms memory terms = _terms();
        terms.fixedGenesis = false;
        _create(terms);
        vm.assertEq(tasks.taskInfo(TASK).seed, bytes32(0));
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        uint256 number = block.number + 1;
        vm.expectEmit(address(tasks));
        emit TaskRegistry.SeedBlockFixed(TASK, number);
        tasks.start(TASK);
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertEq(uint256(info.status), uint256(TaskRegistry.Status.Starting));
        vm.assertEq(info.seedBlock, number);
        vm.assertEq(info.epochStart, 0);
        for (uint256 i; i < 2; ++i) {
            vm.roll(number - 1 + i);
            vm.expectRevert(abi.encodeWithSelector(TaskRegistry.SeedBlockNotReached.selector, number));
            tasks.open(TASK);
        }
        vm.roll(number + 7);
        vm.warp(block.timestamp + 14);
        vm.prevrandao(keccak256("beacon"));
        vm.prank(STRANGER);
        tasks.open(TASK);
        info = tasks.taskInfo(TASK);
        vm.assertEq(info.seed, keccak256(abi.encode(keccak256("flock_ray/genesis/1"), TASK, blockhash(number))));
        vm.assertEq(uint256(info.status), uint256(TaskRegistry.Status.Running));
        vm.assertEq(info.epochStart, block.timestamp);
        vm.expectRevert(
            abi.encodeWithSelector(
                TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Starting, TaskRegistry.Status.Running
            )
        );
        tasks.open(TASK);
        _settle(_report(TASK));
    }

    function test_AbandonOnlyAfterDeadline() public {
        _run(_terms());
        bytes32 seed = tasks.taskInfo(TASK).seed;
        uint256 deadline = block.timestamp + 2 * DEADLINE; // maxUnsettled is 1
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(EpochSettlement.DeadlineNotPassed.selector, deadline));
        settlement.abandon(TASK, 1);
        vm.warp(deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(EpochSettlement.WrongEpoch.selector, 1, 2));
        settlement.abandon(TASK, 2);
        vm.prank(STRANGER);
        settlement.abandon(TASK, 1);
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(TASK);
        vm.assertEq(info.lastSettled, 1);
        vm.assertEq(info.skips, 1);
        vm.assertEq(info.epochStart, deadline + 1);
        vm.assertEq(info.seed, keccak256(abi.encode(keccak256("flock_ray/skip/1"), seed)));
        vm.assertEq(info.lastReport, bytes32(0));
        vm.assertEq(_stakes(TASK), MEMBERS * STAKE);
        vm.expectRevert(
            abi.encodeWithSelector(EpochSettlement.DeadlineNotPassed.selector, deadline + 1 + 2 * uint256(DEADLINE))
        );
        settlement.abandon(TASK, 2);
    }

    function test_SkipsInRowCloseAndRefund() public {
        uint256 before = token.balanceOf(CREATOR);
        Terms memory terms = _terms();
        _run(terms);
        _abandon(1);
        _abandon(2);
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
        vm.assertEq(token.balanceOf(CREATOR), before);
        _passWindow();
        for (uint256 i; i < MEMBERS; ++i) {
            tasks.release(TASK, members[i]);
            vm.assertEq(vault.lockable(members[i], CREATOR), WALLET);
        }
        vm.expectRevert(abi.encodeWithSelector(Committees.NotRunning.selector, TASK));
        settlement.abandon(TASK, 3);
    }

    function test_SettledEpochResetsSkips() public {
        _run(_terms());
        _abandon(1);
        _settle(_report(TASK));
        vm.assertEq(tasks.taskInfo(TASK).skips, 0);
        _abandon(3); // the last one
        vm.assertEq(tasks.taskInfo(TASK).skips, 1);
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
    }

    function test_AbandonedEpochsCount() public {
        Terms memory terms = _terms();
        terms.numEpochs = 2;
        _run(terms);
        _abandon(1);
        Report memory report = _report(TASK);
        vm.assertEq(report.epoch, 2);
        report.rewardsTotal = POOL; // all of it: one epoch is left
        _settle(report);
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
    }

    /// @dev The longest that a task may wait for one epoch: all of its life.
    function test_DeadlineArithmeticDoesNotWrap() public {
        Terms memory terms = _terms();
        (terms.numEpochs, terms.epochDeadline, terms.maxUnsettled) = (1, 1, 10 * 365 days - 1);
        _run(terms);
        uint256 deadline = block.timestamp + 10 * 365 days;
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(EpochSettlement.DeadlineNotPassed.selector, deadline));
        settlement.abandon(TASK, 1);
        vm.warp(deadline + 1);
        settlement.abandon(TASK, 1);
    }

    function _abandon(uint64 epoch) private {
        vm.warp(block.timestamp + 2 * DEADLINE + 1);
        settlement.abandon(TASK, epoch);
    }

    function test_ReleaseOnceAfterTheWindow() public {
        _run(_terms());
        vm.expectRevert(
            abi.encodeWithSelector(
                TaskRegistry.WrongStatus.selector, TaskRegistry.Status.Closed, TaskRegistry.Status.Running
            )
        );
        tasks.release(TASK, members[0]);
        _abandon(1);
        _abandon(2);
        uint256 until = block.timestamp + EVIDENCE_WINDOW;
        vm.assertEq(tasks.releasableAt(TASK), until);
        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.EvidenceWindowOpen.selector, until));
        tasks.release(TASK, members[0]);
        vm.warp(until);
        vm.expectEmit(address(tasks));
        emit TaskRegistry.Released(TASK, members[0], STAKE);
        vm.prank(STRANGER);
        tasks.release(TASK, members[0]);
        vm.assertEq(vault.lockable(members[0], CREATOR), WALLET);
        vm.assertEq(vault.lockable(members[1], CREATOR), WALLET - STAKE);
        vm.assertEq(tasks.memberAt(TASK, 0).stake, 0);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NothingToRelease.selector, members[0]));
        tasks.release(TASK, members[0]);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.NotMember.selector, STRANGER));
        tasks.release(TASK, STRANGER);
    }

    function test_EvidenceWindowIsBounded() public {
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.InvalidWindow.selector, 365 days, 365 days + 1));
        new TaskRegistry(token, emission, vault, distributor, settlement, 365 days + 1, SINK, ADMIN);
    }

    /// @dev What nobody may gain goes to an account outside these contracts.
    function test_SinkIsOutside() public {
        address[5] memory ours = [address(0), address(token), address(vault), address(distributor), address(settlement)];
        for (uint256 i; i < 6; ++i) {
            address bad = i < 5 ? ours[i] : vm.computeCreateAddress(address(this), vm.getNonce(address(this)));
            vm.expectRevert(abi.encodeWithSelector(TaskRegistry.InvalidSink.selector, bad));
            this.deployWith(bad);
        }
        vm.assertEq(tasks.sink(), SINK);
        vm.assertEq(this.deployWith(CREATOR).sink(), CREATOR);
    }

    function deployWith(address sink) external returns (TaskRegistry) {
        return new TaskRegistry(token, emission, vault, distributor, settlement, 0, sink, ADMIN);
    }
}
