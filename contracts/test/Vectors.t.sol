// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";
import {EpochSettlement} from "../src/EpochSettlement.sol";
import {FlockToken} from "../src/FlockToken.sol";
import {Misconduct} from "../src/Misconduct.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {Roles} from "../src/libraries/Roles.sol";
import {Report, Slash} from "../src/libraries/Reports.sol";
import {Signatures} from "../src/libraries/Signatures.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice Cheatcodes that read the shared vectors.
interface VmVectors {
    function readFile(string calldata path) external view returns (string memory);
    function keyExistsJson(string calldata json, string calldata key) external view returns (bool);
    function parseJsonBytes32(string calldata json, string calldata key) external pure returns (bytes32);
    function parseJsonBytes32Array(string calldata json, string calldata key) external pure returns (bytes32[] memory);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function parseJsonAddress(string calldata json, string calldata key) external pure returns (address);
    function parseJsonAddressArray(string calldata json, string calldata key) external pure returns (address[] memory);
    function parseJsonBoolArray(string calldata json, string calldata key) external pure returns (bool[] memory);
    function parseJsonString(string calldata json, string calldata key) external pure returns (string memory);
    function parseJsonStringArray(string calldata json, string calldata key) external pure returns (string[] memory);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function parseJsonUintArray(string calldata json, string calldata key) external pure returns (uint256[] memory);
    function toString(uint256 value) external pure returns (string memory);
    function chainId(uint256 id) external;
    function etch(address target, bytes calldata code) external;
}

/// @notice The contracts against `vectors.json`, which the Python package writes and is tested with.
contract VectorsTest is Fixture {
    VmVectors private constant VECTORS = VmVectors(address(vm));

    string private json;

    function setUp() public override {
        super.setUp();
        json = VECTORS.readFile("test/vectors.json");
    }

    function _key(string memory list, uint256 index, string memory field) private pure returns (string memory) {
        return string.concat(".", list, "[", VECTORS.toString(index), "]", field);
    }

    function _has(string memory list, uint256 index) private view returns (bool) {
        return VECTORS.keyExistsJson(json, _key(list, index, ""));
    }

    /// @dev Puts a contract's code at the address that the vectors name, on their chain.
    function _place(string memory name, address code) private returns (address at) {
        VECTORS.chainId(VECTORS.parseJsonUint(json, ".chainId"));
        at = VECTORS.parseJsonAddress(json, string.concat(".", name));
        VECTORS.etch(at, code.code);
    }

    function test_RewardsTables() public {
        token = new FlockToken(SUPPLY);
        address code =
            address(new RewardDistributor(token, address(this), address(this), StakeVault(address(0)), 0, ADMIN));
        distributor = RewardDistributor(_place("distributor", code));
        token.transfer(address(distributor), SUPPLY);
        uint256 i;
        for (; _has("trees", i); ++i) {
            _claimAll(i);
            _claimMany(i);
        }
        vm.assertLt(5, i, "trees are missing");
    }

    /// @dev Commits a table of rewards under its root.
    function _commit(uint256 tree, uint256[] memory cumulative) private returns (bytes32 task) {
        uint256 total;
        task = VECTORS.parseJsonBytes32(json, ".task");
        for (uint256 i; i < cumulative.length; ++i) {
            total += cumulative[i];
        }
        distributor.deposit(task, uint128(total), 0);
        distributor.commit(task, VECTORS.parseJsonBytes32(json, _key("trees", tree, ".root")), uint128(total), 1);
    }

    /// @dev Tables grow from tree to tree, and so do their sums: accounts are paid the difference.
    function _claimAll(uint256 tree) private {
        address[] memory accounts = VECTORS.parseJsonAddressArray(json, _key("trees", tree, ".accounts"));
        uint256[] memory cumulative = VECTORS.parseJsonUintArray(json, _key("trees", tree, ".cumulative"));
        bytes32[] memory leaves = VECTORS.parseJsonBytes32Array(json, _key("trees", tree, ".leaves"));
        bytes32 task = _commit(tree, cumulative);
        for (uint256 i; i < accounts.length; ++i) {
            vm.assertEq(_leaf(task, accounts[i], cumulative[i]), leaves[i]);
            string memory key = string.concat(".proofs[", VECTORS.toString(i), "]");
            bytes32[] memory proof = VECTORS.parseJsonBytes32Array(json, _key("trees", tree, key));
            vm.expectRevert(
                abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, task, accounts[i], cumulative[i] + 1)
            );
            distributor.claim(task, accounts[i], cumulative[i] + 1, proof);
            if (distributor.claimed(task, accounts[i]) < cumulative[i]) {
                distributor.claim(task, accounts[i], cumulative[i], proof);
            }
            vm.assertEq(token.balanceOf(accounts[i]), cumulative[i]);
        }
    }

    /// @dev Everybody has been paid: the proof alone is what counts.
    function _claimMany(uint256 tree) private {
        address[] memory accounts = VECTORS.parseJsonAddressArray(json, _key("trees", tree, ".multiproof.accounts"));
        uint256[] memory cumulative = VECTORS.parseJsonUintArray(json, _key("trees", tree, ".multiproof.cumulative"));
        bytes32[] memory proof = VECTORS.parseJsonBytes32Array(json, _key("trees", tree, ".multiproof.proof"));
        bool[] memory flags = VECTORS.parseJsonBoolArray(json, _key("trees", tree, ".multiproof.flags"));
        bytes32 task = VECTORS.parseJsonBytes32(json, ".task");
        distributor.claimMany(task, accounts, cumulative, proof, flags);
        cumulative[0] += 1;
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidMultiProof.selector, task));
        distributor.claimMany(task, accounts, cumulative, proof, flags);
    }

    function test_Draws() public view {
        bytes32 task = VECTORS.parseJsonBytes32(json, ".task");
        uint256 i;
        for (; _has("draws", i); ++i) {
            uint256[] memory expected = VECTORS.parseJsonUintArray(json, _key("draws", i, ".slots"));
            uint256[] memory slots = Roles.draw(
                VECTORS.parseJsonBytes32(json, _key("draws", i, ".seed")),
                task,
                VECTORS.parseJsonUint(json, _key("draws", i, ".epoch")),
                VECTORS.parseJsonUint(json, _key("draws", i, ".numSlots")),
                expected.length
            );
            vm.assertEq(keccak256(abi.encode(slots)), keccak256(abi.encode(expected)));
        }
        vm.assertLt(5, i, "draws are missing");
    }

    /// @dev The seeds of a real task: two epochs are settled, one is abandoned.
    function test_Seeds() public {
        bytes32[] memory reveals = VECTORS.parseJsonBytes32Array(json, ".seeds.reveals");
        bytes32[] memory chain = VECTORS.parseJsonBytes32Array(json, ".seeds.chain");
        Terms memory terms = _terms();
        _run(terms);
        for (uint256 i; i < reveals.length; ++i) {
            vm.assertEq(tasks.taskInfo(TASK).seed, chain[i]);
            Report memory report = _report(TASK);
            report.revealsDigest = reveals[i];
            _settle(report);
        }
        vm.assertEq(tasks.taskInfo(TASK).seed, chain[2]);
        vm.warp(block.timestamp + 2 * DEADLINE + 1);
        settlement.abandon(TASK, 3);
        vm.assertEq(tasks.taskInfo(TASK).seed, chain[3]);
    }

    function _parse(uint256 i) private view returns (Report memory report) {
        uint256[] memory members_ = VECTORS.parseJsonUintArray(json, _key("reports", i, ".slashMembers"));
        uint256[] memory amounts = VECTORS.parseJsonUintArray(json, _key("reports", i, ".slashAmounts"));
        report.slashes = new Slash[](members_.length);
        for (uint256 j; j < members_.length; ++j) {
            report.slashes[j] = Slash(uint32(members_[j]), uint128(amounts[j]));
        }
        report.task = VECTORS.parseJsonBytes32(json, ".task");
        report.epoch = uint64(VECTORS.parseJsonUint(json, _key("reports", i, ".epoch")));
        report.previousReport = VECTORS.parseJsonBytes32(json, _key("reports", i, ".previousReport"));
        report.seed = VECTORS.parseJsonBytes32(json, _key("reports", i, ".seed"));
        report.revealsDigest = VECTORS.parseJsonBytes32(json, _key("reports", i, ".revealsDigest"));
        report.rewardsRoot = VECTORS.parseJsonBytes32(json, _key("reports", i, ".rewardsRoot"));
        report.rewardsTotal = uint128(VECTORS.parseJsonUint(json, _key("reports", i, ".rewardsTotal")));
        report.modelHash = VECTORS.parseJsonBytes32(json, _key("reports", i, ".modelHash"));
        report.recordHash = VECTORS.parseJsonBytes32(json, _key("reports", i, ".recordHash"));
        report.relayer = VECTORS.parseJsonAddress(json, _key("reports", i, ".relayer"));
    }

    function test_Reports() public {
        EpochSettlement at = EpochSettlement(_place("settlement", address(settlement)));
        address[] memory signer = new address[](1);
        signer[0] = VECTORS.parseJsonAddress(json, ".signer");
        uint256 i;
        for (; _has("reports", i); ++i) {
            Report memory report = _parse(i);
            bytes32 digest = VECTORS.parseJsonBytes32(json, _key("reports", i, ".digest"));
            vm.assertEq(at.reportHash(report), VECTORS.parseJsonBytes32(json, _key("reports", i, ".hash")));
            vm.assertEq(at.reportDigest(report), digest);
            bytes memory signature = VECTORS.parseJsonBytes(json, _key("reports", i, ".signature"));
            vm.assertEq(this.firstForeign(digest, signature, signer), 1);
            vm.assertEq(this.firstForeign(~digest, signature, signer), 0);
        }
        vm.assertLt(2, i, "reports are missing");
    }

    function firstForeign(bytes32 digest, bytes calldata signatures, address[] memory owners)
        external
        view
        returns (uint256)
    {
        return Signatures.firstForeign(digest, signatures, owners);
    }

    function test_Messages() public {
        EpochSettlement at = EpochSettlement(_place("settlement", address(settlement)));
        uint256 i;
        for (; _has("messages", i); ++i) {
            bytes32 signed = at.messageDigest(
                VECTORS.parseJsonBytes32(json, ".task"),
                uint64(VECTORS.parseJsonUint(json, _key("messages", i, ".epoch"))),
                VECTORS.parseJsonBytes32(json, _key("messages", i, ".seed")),
                VECTORS.parseJsonString(json, _key("messages", i, ".kind")),
                VECTORS.parseJsonBytes32(json, _key("messages", i, ".digest"))
            );
            vm.assertEq(signed, VECTORS.parseJsonBytes32(json, _key("messages", i, ".signed")));
        }
        vm.assertLt(3, i, "messages are missing");
    }

    /// @dev Every kind that members sign gets as far as its signatures, of an alliance and of a contest.
    function test_Kinds() public {
        string[] memory kinds = VECTORS.parseJsonStringArray(json, ".kinds");
        vm.assertEq(kinds.length, 20);
        for (uint256 i; i < kinds.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(Misconduct.NotSignedBy.selector, STRANGER));
            _accuse(kinds[i]);
        }
        string[6] memory unknown = ["report", "Gate", "rung_0_ballot", "rung_4_ballot", "rung_1", "final_ballot "];
        for (uint256 i; i < unknown.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(Misconduct.UnknownKind.selector, unknown[i]));
            _accuse(unknown[i]);
        }
    }

    function _accuse(string memory kind) private {
        settlement.slashEquivocation(TASK, STRANGER, 1, "seed", kind, "one", "other", new bytes(128));
    }
}
