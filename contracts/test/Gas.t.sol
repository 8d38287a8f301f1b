// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";
import {Merkle} from "./Merkle.sol";
import {Report} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice Gas of whole transactions, intrinsic and calldata costs included, against ceilings. `-vv` prints the numbers.
contract GasTest is Fixture {
    address private constant CONSOLE = 0x000000000000000000636F6e736F6c652e6c6f67;

    function _measure(string memory transaction, uint256 ceiling) private {
        _measureEach(transaction, 1, ceiling);
    }

    function _measureEach(string memory transaction, uint256 parts, uint256 ceiling) private {
        uint256 used = vm.lastCallGas().gasTotalUsed / parts;
        _print(transaction, used);
        vm.assertLt(used, ceiling, transaction);
    }

    function _print(string memory what, uint256 gas) private view {
        CONSOLE.staticcall(abi.encodeWithSignature("log(string,uint256)", what, gas));
    }

    /// forge-config: default.isolate = true
    function test_Life() public {
        _create(_terms());
        _measure("createTask", 340_000);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
            _measure("join, 1 slot", 250_000);
        }
        tasks.start(TASK);
        _measure("start", 94_000);
        uint256[] memory earned = new uint256[](MEMBERS);
        for (uint256 epoch = 1; epoch <= EPOCHS; ++epoch) {
            Report memory report = _report(TASK);
            for (uint256 i; i < MEMBERS; ++i) {
                earned[i] += 1 ether;
            }
            report.rewardsTotal += 8 ether;
            bytes32[] memory nodes = _tree(TASK, earned);
            report.rewardsRoot = nodes[0];
            if (epoch == 2) report.slashes = _slashes(0, 1 ether);
            _settle(report);
            _measure("settle, 3 of 4 signatures", 220_000);
            bytes32[] memory proof = Merkle.prove(nodes, _leaf(TASK, members[1], earned[1]));
            distributor.claim(TASK, members[1], earned[1], proof);
            _measure("claim among 8", 130_000);
        }
        vm.warp(block.timestamp + EVIDENCE_WINDOW);
        tasks.release(TASK, members[1]);
        _measure("release", 70_000);
    }

    /// @dev The state that a running task is in: later than the first epoch, all its words written before.
    /// forge-config: default.isolate = true
    function test_SteadySettlement() public {
        for (uint256 i = MEMBERS; i < 100; ++i) {
            address member = vm.addr(i + 1);
            members.push(member);
            keys[member] = i + 1;
            _enrol(member, STAKE);
        }
        Terms memory terms = _terms();
        terms.maxMembers = 100;
        terms.numVoters = 10;
        terms.numEpochs = 4;
        _run(terms);
        for (uint256 epoch = 1; epoch <= 3; ++epoch) {
            Report memory report = _report(TASK);
            report.rewardsRoot = keccak256(abi.encode("root", epoch));
            report.rewardsTotal = uint128(epoch * 713_123_456_789_012_345_678);
            report.relayer = address(uint160(uint256(keccak256("relayer"))));
            // The seats at the end cost most: all seats before them are drawn too.
            uint256 seats = epoch == 3 ? 0x3f8 : 0x7f;
            settlement.settle(report, seats, _sign(report, seats));
            if (epoch == 2) _measure("settle, 7 of 10 signatures, first seats, steady", 118_200);
        }
        _measure("settle, 7 of 10 signatures, last seats, steady", 119_600);
        _parts(_report(TASK));
    }

    /// @dev A settlement pays for changes of members when they are due, and next to nothing while they wait.
    /// forge-config: default.isolate = true
    function test_ChangingMembers() public {
        Terms memory terms = _terms();
        (terms.numEpochs, terms.maxMembers) = (8, MEMBERS + 1);
        _create(terms);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], STAKE);
        }
        vm.prank(CREATOR);
        tasks.start(TASK);
        _settleAndMeasure("settle, first epoch", 105_000);
        _settleAndMeasure("settle, 3 of 4 signatures, no change", 88_000);
        address newcomer = vm.addr(50);
        keys[newcomer] = 50;
        _enrol(newcomer, STAKE);
        _join(TASK, newcomer, STAKE);
        _measure("join a running task, 1 slot", 215_000);
        vm.prank(members[0]);
        tasks.resign(TASK);
        _measure("resign", 82_000);
        _settleAndMeasure("settle while two changes wait", 99_000);
        _settle(_report(TASK));
        _settleAndMeasure("settle while two changes are due next", 102_000);
        Report memory report = _report(TASK);
        bytes memory signatures = _signWith(report, 7);
        settlement.settle(report, 7, signatures);
        _measure("settle, one joins and one leaves", 153_000);
    }

    /// @dev The most that one settlement moves: 256 slots of one leaver, each of which is filled with another member's.
    /// forge-config: default.isolate = true
    function test_LargestChange() public {
        Terms memory terms = _terms();
        (terms.numEpochs, terms.maxSlots, terms.minStake) = (8, 256, 1 ether);
        _create(terms);
        for (uint256 i; i < MEMBERS; ++i) {
            _join(TASK, members[i], i < 2 ? 256 ether : 1 ether);
        }
        tasks.start(TASK);
        vm.prank(members[0]);
        tasks.resign(TASK);
        for (uint256 i; i < 3; ++i) {
            _settle(_report(TASK));
        }
        Report memory report = _report(TASK);
        uint256[] memory slots = settlement.drawSeats(report.seed, TASK, report.epoch, 262, VOTERS);
        bytes memory signatures;
        for (uint256 seat; seat < 3; ++seat) {
            // 0 ... 0 1 ... 1 2 3 4 5 6 7: from its last slot to its first, the leaver's are filled with 7 6 5 4 3 2 1 ... 1
            uint256 slot = slots[seat];
            uint256 key = slot < 250 || slot > 255 ? 2 : slot - 247;
            signatures = bytes.concat(signatures, _signature(key, settlement.reportDigest(report)));
        }
        settlement.settle(report, 7, signatures);
        _measure("settle, a member with 256 slots leaves", 9_000_000);
    }

    function _settleAndMeasure(string memory transaction, uint256 ceiling) private {
        _settle(_report(TASK));
        _measure(transaction, ceiling);
    }

    /// @dev By the committee after member 0 left and another, which took its slot in the end, joined.
    function _signWith(Report memory report, uint256 seats) private view returns (bytes memory signatures) {
        uint256[] memory slots = settlement.drawSeats(report.seed, TASK, report.epoch, MEMBERS, VOTERS);
        for (uint256 seat; seats >> seat != 0; ++seat) {
            uint256 key = slots[seat] == 0 ? 50 : slots[seat] + 1;
            signatures = bytes.concat(signatures, _signature(key, settlement.reportDigest(report)));
        }
    }

    /// @dev Parts of a settlement that stand in the transaction alone.
    function _parts(Report memory report) private {
        bytes memory data = abi.encodeCall(settlement.settle, (report, 127, _sign(report, 127)));
        _print("of it: intrinsic", 21_000);
        _print("of it: calldata", _calldataGas(data));
    }

    function _calldataGas(bytes memory data) private pure returns (uint256 gas) {
        for (uint256 i; i < data.length; ++i) {
            gas += data[i] == 0 ? 4 : 16;
        }
    }

    /// @dev Claims among 1,000 accounts, each of which was paid before: alone, and 100 at once.
    /// forge-config: default.isolate = true
    function test_ClaimsAmongThousand() public {
        _run(_terms());
        token.transfer(members[0], 1); // who has tokens already pays less
        bytes32[] memory leaves = new bytes32[](1000);
        address[] memory accounts = new address[](100);
        uint256[] memory cumulatives = new uint256[](100);
        for (uint256 epoch = 1; epoch <= 2; ++epoch) {
            uint256 amount = epoch * 0.9 ether + 12_345_678_901;
            for (uint256 i; i < 1000; ++i) {
                leaves[i] = _leaf(TASK, _claimant(i), amount);
            }
            bytes32[] memory nodes = Merkle.build(leaves);
            Report memory report = _report(TASK);
            report.rewardsRoot = nodes[0];
            report.rewardsTotal = uint128(1000 * amount);
            _settle(report);
            for (uint256 i; i < 100; ++i) {
                accounts[i] = _claimant(1 + i * 9);
                cumulatives[i] = amount;
            }
            (bytes32[] memory proof, bool[] memory flags) = _multiproof(nodes, accounts, cumulatives);
            distributor.claimMany(TASK, accounts, cumulatives, proof, flags);
            _measureEach("relayed claims, 100 of 1,000, each", 100, epoch == 1 ? 60_000 : 24_001);
            distributor.claim(TASK, _claimant(0), amount, Merkle.prove(nodes, leaves[0]));
            _measure("claim among 1,000", epoch == 1 ? 82_000 : 62_000);
        }
    }

    function _claimant(uint256 i) private view returns (address) {
        return i == 0 ? members[0] : address(uint160(uint256(keccak256(abi.encode("claimant", i)))));
    }

    /// @dev Sorts the accounts into the order of their leaves, as the proof wants them.
    function _multiproof(bytes32[] memory nodes, address[] memory accounts, uint256[] memory cumulatives)
        private
        view
        returns (bytes32[] memory proof, bool[] memory flags)
    {
        uint256[] memory wanted = new uint256[](accounts.length);
        bytes32[] memory leaves = new bytes32[](accounts.length);
        for (uint256 i; i < accounts.length; ++i) {
            leaves[i] = _leaf(TASK, accounts[i], cumulatives[i]);
        }
        uint256 found;
        for (uint256 position = nodes.length; position-- > nodes.length / 2;) {
            for (uint256 i = found; i < accounts.length; ++i) {
                if (leaves[i] != nodes[position]) continue;
                (accounts[i], accounts[found]) = (accounts[found], accounts[i]);
                (leaves[i], leaves[found]) = (leaves[found], leaves[i]);
                wanted[found++] = position;
                break;
            }
        }
        return Merkle.proveMany(nodes, wanted);
    }
}
