// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {EpochSettlement} from "../src/EpochSettlement.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report, Slash} from "../src/libraries/Reports.sol";

/// @notice EIP-712 hashes against two other implementations: golden values of a client library, and forge's own encoder.
contract ReportsTest is Base {
    string private constant SLASH_TYPE = "Slash(uint32 member,uint128 amount)";
    string private constant REPORT_TYPE =
        "Report(bytes32 task,uint64 epoch,bytes32 previousReport,bytes32 seed,bytes32 revealsDigest,bytes32 rewardsRoot,uint128 rewardsTotal,Slash[] slashes,bytes32 modelHash,bytes32 recordHash,address relayer)";
    string private constant MESSAGE_TYPE = "Message(bytes32 task,uint64 epoch,bytes32 seed,string kind,bytes32 digest)";

    EpochSettlement private settlement;

    function setUp() public {
        settlement = new EpochSettlement(TaskRegistry(address(1)), RewardDistributor(address(2)), 0, 0, 0);
    }

    function _report(Slash[] memory slashes) private pure returns (Report memory) {
        return Report({
            task: keccak256("task"),
            epoch: 7,
            previousReport: keccak256("previous"),
            seed: keccak256("seed"),
            revealsDigest: keccak256("reveals"),
            rewardsRoot: keccak256("root"),
            rewardsTotal: 123_456_789 ether,
            slashes: slashes,
            modelHash: keccak256("model"),
            recordHash: keccak256("record"),
            relayer: address(0xE0)
        });
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("flock_ray"),
                keccak256("1"),
                block.chainid,
                address(settlement)
            )
        );
        return keccak256(abi.encodePacked("\x19\x01", domain, structHash));
    }

    function test_GoldenStructHashes() public view {
        vm.assertEq(
            settlement.reportHash(_report(new Slash[](0))),
            0xe8490406c9ad3bad03e7402c75cac3ceb2586c417db2d88e2b7d03c1b3d4d1bc
        );
        Slash[] memory slashes = new Slash[](2);
        slashes[0] = Slash(3, 1 ether);
        slashes[1] = Slash(0, type(uint128).max);
        vm.assertEq(
            settlement.reportHash(_report(slashes)), 0x690ebd0b9c35c9b35f93a53edec7b854896d3c620f37dd00e3ff236b742fbad3
        );
    }

    function test_GoldenMessageDigest() public view {
        vm.assertEq(
            settlement.messageDigest(keccak256("task"), 7, keccak256("seed"), "ballot.a", keccak256("digest")),
            _digest(0x2c931a991336af19587773c5724831830d2f750822ba0d8eca2d4af5c77265f5)
        );
        vm.assertEq(settlement.MESSAGE_TYPEHASH(), keccak256(bytes(MESSAGE_TYPE)));
    }

    function testFuzz_ReportDigest(Report memory report) public view {
        bytes32 expected = vm.eip712HashStruct(string.concat(REPORT_TYPE, SLASH_TYPE), abi.encode(report));
        vm.assertEq(settlement.reportHash(report), expected);
        vm.assertEq(settlement.reportDigest(report), _digest(expected));
    }

    function testFuzz_MessageDigest(bytes32 task, uint64 epoch, bytes32 seed, string memory kind, bytes32 digest)
        public
        view
    {
        bytes32 expected = keccak256(
            abi.encode(keccak256(bytes(MESSAGE_TYPE)), task, uint256(epoch), seed, keccak256(bytes(kind)), digest)
        );
        vm.assertEq(settlement.messageDigest(task, epoch, seed, kind, digest), _digest(expected));
    }
}
