// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Fixture} from "./Fixture.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Change} from "../src/libraries/Membership.sol";
import {Report, Slash} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice Joins, enters, leaves, settles, slashes nodes, abandons, challenges and releases in any order, beside a plain
/// model of the slots: a list of tokens from which those of a leaver are taken one by one. Two of three tasks take nodes.
contract MembersHandler is Fixture {
    /// @notice A slot of the model: whose it is, and which of its owner's.
    struct Token {
        uint256 member;
        uint256 number;
    }

    /// @notice A change that the model was told of.
    struct Asked {
        uint256 member;
        bool leaves;
        uint256 epoch;
    }

    uint32 private constant LAG = 2;
    uint32 private constant MAX_MEMBERS = 9;
    uint32 private constant LONG = 400;
    uint96 private constant NODE_STAKE = 10 ether;

    uint256 public numTasks;
    bytes32 public task;
    uint256 public unexpected;
    uint256 private _nextKey = 1000;

    Token[] private _slots;
    Asked[] private _asked;
    uint256 private _applied;
    address[] private _joined;
    mapping(bytes32 task => mapping(uint256 member => bool)) private _resigned;
    mapping(bytes32 task => mapping(uint256 member => uint256)) private _leftAt;
    mapping(bytes32 task => mapping(uint256 member => bool)) private _released;
    mapping(bytes32 task => mapping(uint256 member => uint256)) private _nodeStakes; // what is left of each node's
    mapping(bytes32 task => mapping(uint256 member => uint256)) private _nodeLeaves; // epoch from which it is out
    uint256[] private _nodes;
    uint256 public slashed; // of all nodes, in the running task
    address[] private _lastVoters;
    bytes private _lastReport;

    function setUp() public override {
        super.setUp();
        _begin();
    }

    /// @notice An account that was in no task joins, and may do so exactly while there is a place and time.
    function join(uint256 slots) external {
        _goOn();
        slots = bound(slots, 1, 3);
        address account = vm.addr(++_nextKey);
        keys[account] = _nextKey;
        _enrol(account, 3 * STAKE);
        uint256 places;
        for (uint256 i; i < _joined.length; ++i) {
            if (_leftAt[task][i] == 0 && !_isNode(i)) ++places;
        }
        bool allowed = places < MAX_MEMBERS && _due() <= LONG;
        vm.prank(account);
        try tasks.join(task, uint128(slots) * STAKE, keccak256("tip"), digests[task]) {
            if (!allowed) ++unexpected;
            _asked.push(Asked(_joined.length, false, _due()));
            _joined.push(account);
        } catch {
            if (allowed) ++unexpected;
        }
    }

    /// @notice An account that was in no task enters, and may do so exactly while the task takes nodes and it has the stake.
    function enter(uint256 amount) external {
        _goOn();
        amount = bound(amount, 1, 4 * NODE_STAKE);
        address account = vm.addr(++_nextKey);
        keys[account] = _nextKey;
        _enrol(account, 3 * STAKE);
        bool allowed = _takesNodes() && amount >= NODE_STAKE;
        vm.prank(account);
        try tasks.enter(task, uint128(amount), digests[task]) {
            if (!allowed) ++unexpected;
            _nodeStakes[task][_joined.length] = amount;
            _nodes.push(_joined.length);
            _joined.push(account);
        } catch {
            if (allowed) ++unexpected;
        }
    }

    /// @notice A member or node has a role for good: it neither joins nor enters again.
    function comeAgain(uint256 member, bool joins) external {
        _goOn();
        vm.startPrank(_joined[member % _joined.length]);
        if (joins) {
            try tasks.join(task, STAKE, keccak256("tip"), digests[task]) {
                ++unexpected;
            } catch {}
        } else {
            try tasks.enter(task, NODE_STAKE, digests[task]) {
                ++unexpected;
            } catch {}
        }
        vm.stopPrank();
    }

    /// @notice A member leaves; one that has asked to already, or is out, may not.
    function resign(uint256 member) external {
        _goOn();
        _resign(member % _joined.length);
    }

    /// @notice The same of a node.
    function resignNode(uint256 node) external {
        _goOn();
        if (_nodes.length != 0) _resign(_nodes[node % _nodes.length]);
    }

    function _resign(uint256 member) private {
        bool allowed = !_resigned[task][member] && _due() <= LONG;
        vm.prank(_joined[member]);
        try tasks.resign(task) {
            if (!allowed) ++unexpected;
            _resigned[task][member] = true;
            if (_isNode(member)) _nodeLeaves[task][member] = _due();
            else _asked.push(Asked(member, true, _due()));
        } catch {
            if (allowed) ++unexpected;
        }
    }

    /// @notice The committee of the model's slots settles; no other one could. It may slash a node.
    function settle(bool absent, uint256 node, uint256 amount) external {
        _goOn();
        Report memory report = _report(task);
        if (_nodes.length != 0 && node % 3 == 0) report.slashes = _slashOf(_nodes[node % _nodes.length], amount);
        _apply(report.epoch);
        uint256[] memory seats = settlement.drawSeats(report.seed, task, report.epoch, uint32(_slots.length), VOTERS);
        delete _lastVoters;
        bytes memory signatures;
        uint256 signed = absent ? 7 : 15;
        for (uint256 seat; seat < VOTERS; ++seat) {
            address voter = _joined[_slots[seats[seat]].member];
            _lastVoters.push(voter);
            if ((signed >> seat) & 1 == 1) {
                signatures = bytes.concat(signatures, _signedBy(voter, settlement.reportDigest(report)));
            }
        }
        settlement.settle(report, signed, signatures);
        _lastReport = abi.encode(report);
    }

    function abandon() external {
        _goOn();
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        vm.warp(block.timestamp + (LAG + 1) * DEADLINE + 1);
        settlement.abandon(task, info.lastSettled + 1);
    }

    /// @notice The last report's seats belong to who held them in its epoch, until the next report.
    function challenge(uint256 seat) external {
        if (_lastReport.length == 0) return;
        seat %= VOTERS;
        Report memory report = abi.decode(_lastReport, (Report));
        try settlement.challengeAbsence(report, seat) {
            vm.assertEq(settlement.challengeOf(task, report.epoch, seat).owner, _lastVoters[seat]);
        } catch {}
    }

    /// @notice Stake is released when the evidence window is over after the member left, or after the end, and not before.
    function release(uint256 member, uint256 wait) external {
        _release(member % _joined.length, wait);
    }

    /// @notice The same of a node; while the contest runs, it is noted first that it left.
    function releaseNode(uint256 node, uint256 wait) external {
        if (_nodes.length != 0) _release(_nodes[node % _nodes.length], wait);
    }

    function _release(uint256 member, uint256 wait) private {
        vm.warp(block.timestamp + wait % EVIDENCE_WINDOW);
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        bool running = info.status == TaskRegistry.Status.Running;
        uint256 left = _leftAt[task][member];
        uint256 leaves = _nodeLeaves[task][member];
        bool letGo = running && left == 0 && leaves != 0 && info.lastSettled >= leaves;
        if (left == 0 && info.status == TaskRegistry.Status.Closed) left = info.epochStart;
        bool empty = _released[task][member] || (_isNode(member) && _nodeStakes[task][member] == 0);
        bool allowed = letGo || (left != 0 && block.timestamp >= left + EVIDENCE_WINDOW && !empty);
        try tasks.release(task, _joined[member]) {
            if (!allowed) ++unexpected;
            if (letGo) _leftAt[task][member] = block.timestamp;
            else _released[task][member] = true;
        } catch {
            if (allowed) ++unexpected;
        }
    }

    /// @notice The contract's slots are those of the model, and nothing else is there.
    function checkSlots() external view {
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        vm.assertEq(info.numSlots, _slots.length, "slots of the registry");
        vm.assertEq(settlement.headOf(task).clock.numSlots, _slots.length, "slots of the clock");
        uint256[] memory numbers = new uint256[](_slots.length);
        uint256[] memory held = new uint256[](_joined.length);
        for (uint256 i; i < numbers.length; ++i) {
            numbers[i] = i;
        }
        address[] memory owners = tasks.slotOwners(task, numbers);
        for (uint256 i; i < numbers.length; ++i) {
            uint256 member = tasks.indexOf(task, owners[i]);
            vm.assertEq(member, _slots[i].member, "owner of a slot");
            ++held[member];
        }
        for (uint256 i; i < held.length; ++i) {
            uint256 slots = _isIn(i) ? tasks.memberAt(task, i).slots : 0;
            vm.assertEq(held[i], slots, "a current member has its slots, nobody else has any");
        }
        numbers = new uint256[](1);
        numbers[0] = _slots.length;
        try tasks.slotOwners(task, numbers) {
            vm.assertTrue(false, "a slot behind the last one");
        } catch {}
    }

    /// @notice Changes are kept in order, none counts early, and none that is due waits behind a settlement.
    function checkChanges() external view {
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        vm.assertEq(info.numMembers, _joined.length);
        vm.assertEq(info.numNodes, _nodes.length, "nodes");
        vm.assertEq(info.numChanges, _asked.length, "changes");
        vm.assertEq(info.numApplied, _applied, "applied changes");
        for (uint256 i; i < _asked.length; ++i) {
            Change memory change = tasks.changesOf(task, i, i + 1)[0];
            vm.assertEq(change.member, _asked[i].member);
            vm.assertEq(change.epoch, _asked[i].epoch);
            vm.assertTrue(change.leaves == _asked[i].leaves, "the kind of a change");
            if (i < _applied) vm.assertLe(change.epoch, info.lastSettled, "no change counts early");
        }
        bool running = info.status == TaskRegistry.Status.Running;
        bool changing = settlement.headOf(task).clock.changing;
        vm.assertTrue(changing == (_applied != _asked.length), "the clock knows that changes wait");
        (, uint256 next) = tasks.dueAt(task, info.lastSettled + 1);
        vm.assertTrue(
            running == (next > VOTERS && info.lastSettled != LONG), "it runs while the next epoch has enough slots"
        );
    }

    /// @notice Every stake that was not released is locked, and what slashes took of nodes went where it must.
    function checkStakes() external view {
        for (uint256 i; i < _joined.length; ++i) {
            uint256 stake = tasks.memberAt(task, i).slots * STAKE + _nodeStakes[task][i];
            if (_released[task][i]) stake = 0;
            vm.assertEq(vault.lockedStake(task, _joined[i]), stake, "stake of a member");
        }
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        uint256 taken = slashed - slashed / 10;
        if (info.status == TaskRegistry.Status.Closed) taken = 0;
        vm.assertEq(info.escrow, taken, "nine tenths of all slashes wait in the escrow");
    }

    /// @dev A slash of a multiple of ten wei, and what the model makes of it.
    function _slashOf(uint256 node, uint256 amount) private returns (Slash[] memory) {
        amount = bound(amount, 0, 2 * NODE_STAKE);
        uint256 stake = _released[task][node] ? 0 : _nodeStakes[task][node];
        uint256 taken = amount < stake ? amount : stake;
        taken -= taken % 10; // so that tenths add up
        if (taken == 0) return new Slash[](0);
        _nodeStakes[task][node] = stake - taken;
        slashed += taken;
        return _slashes(uint32(node), uint128(taken));
    }

    function _isNode(uint256 member) private view returns (bool) {
        return tasks.memberAt(task, member).slots == 0;
    }

    function _takesNodes() private view returns (bool) {
        return numTasks % 3 != 0;
    }

    /// @dev A closed task is followed by a new one.
    function _goOn() private {
        if (tasks.taskInfo(task).status == TaskRegistry.Status.Closed) _begin();
    }

    function _begin() private {
        delete _slots;
        delete _asked;
        delete _joined;
        delete _lastReport;
        delete _nodes;
        (_applied, slashed) = (0, 0);
        Terms memory terms = _terms();
        (terms.maxMembers, terms.maxSlots, terms.maxUnsettled) = (MAX_MEMBERS, 3, LAG);
        (terms.numEpochs, terms.maxSkips, terms.pool) = (LONG, LONG + 1, 0);
        ++numTasks;
        task = _takesNodes() ? _createContest(terms) : _create(bytes32(numTasks), terms);
        for (uint256 i; i < 6; ++i) {
            _joinFirst(i % 3 + 1);
        }
        // some leave before it starts, and others take their places
        for (uint256 i; i < (numTasks + 1) % 3; ++i) {
            _cancel((numTasks + 4 * i) % 6);
            _asked.push(Asked(_joined.length, false, 0));
            _joinFirst(i + 1);
            _applied += 1;
        }
        vm.prank(CREATOR);
        tasks.start(task);
    }

    function _createContest(Terms memory terms) private returns (bytes32 contest) {
        vm.prank(CREATOR);
        contest = tasks.createContest(terms, bytes32(numTasks), NODE_STAKE);
        digests[contest] = keccak256(abi.encode(keccak256(abi.encode(CREATOR, terms)), NODE_STAKE));
    }

    function _joinFirst(uint256 slots) private {
        address account = vm.addr(++_nextKey);
        keys[account] = _nextKey;
        _enrol(account, 3 * STAKE);
        _join(task, account, uint128(slots) * STAKE);
        _push(_joined.length, slots);
        _joined.push(account);
    }

    /// @dev Who leaves before the start has its stake back at once, and is none that may come again.
    function _cancel(uint256 member) private {
        _asked.push(Asked(member, true, 0));
        _apply(0);
        vm.prank(_joined[member]);
        tasks.cancelJoin(task);
        (_resigned[task][member], _released[task][member]) = (true, true);
    }

    /// @dev First epoch whose seed nobody knows yet.
    function _due() private view returns (uint256) {
        return tasks.taskInfo(task).lastSettled + LAG + 3;
    }

    function _isIn(uint256 member) private view returns (bool isIn) {
        isIn = member < 6;
        for (uint256 i; i < _applied; ++i) {
            if (_asked[i].member == member) isIn = !_asked[i].leaves;
        }
    }

    /// @dev What is due, as the text of the rule has it.
    function _apply(uint256 epoch) private {
        for (; _applied < _asked.length && _asked[_applied].epoch <= epoch; ++_applied) {
            uint256 member = _asked[_applied].member;
            uint256 slots = tasks.memberAt(task, member).slots;
            if (!_asked[_applied].leaves) {
                _push(member, slots);
                continue;
            }
            _leftAt[task][member] = block.timestamp;
            for (; slots != 0; --slots) {
                uint256 slot;
                while (_slots[slot].member != member || _slots[slot].number != slots - 1) ++slot;
                _slots[slot] = _slots[_slots.length - 1];
                _slots.pop();
            }
        }
    }

    function _push(uint256 member, uint256 slots) private {
        for (uint256 number; number < slots; ++number) {
            _slots.push(Token(member, number));
        }
    }
}

contract MembersInvariantsTest is Base {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    MembersHandler private handler;

    function setUp() public {
        handler = new MembersHandler();
        handler.setUp();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory selectors = new bytes4[](8);
        selectors[0] = MembersHandler.settle.selector;
        selectors[1] = MembersHandler.settle.selector; // twice as likely
        selectors[2] = MembersHandler.join.selector;
        selectors[3] = MembersHandler.join.selector;
        selectors[4] = MembersHandler.resign.selector;
        selectors[5] = MembersHandler.abandon.selector;
        selectors[6] = MembersHandler.challenge.selector;
        selectors[7] = MembersHandler.release.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), selectors);
    }

    function invariant_Members() public view {
        handler.checkSlots();
        handler.checkChanges();
        handler.checkStakes();
        vm.assertEq(handler.unexpected(), 0);
    }
}
