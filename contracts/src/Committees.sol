// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Head, ISettlement} from "./ISettlement.sol";
import {RewardDistributor} from "./RewardDistributor.sol";
import {TaskRegistry} from "./TaskRegistry.sol";
import {Clock, Clocks} from "./libraries/Clocks.sol";
import {Report, Reports} from "./libraries/Reports.sol";
import {Roles} from "./libraries/Roles.sol";
import {Signatures} from "./libraries/Signatures.sol";

/// @title Heads of the running tasks, their committees, and what these sign
abstract contract Committees is ISettlement, EIP712 {
    /// @notice EIP-712 type hash of the members' off-chain messages, which share this contract's domain.
    bytes32 public constant MESSAGE_TYPEHASH =
        keccak256("Message(bytes32 task,uint64 epoch,bytes32 seed,string kind,bytes32 digest)");

    /// @notice EIP-712 type hash of a correction: what a committee puts in the place of a root that was disabled.
    bytes32 public constant CORRECTION_TYPEHASH =
        keccak256("Correction(bytes32 report,bytes32 disabled,bytes32 rewardsRoot,uint128 rewardsTotal)");

    /// @notice Terms, members and stakes.
    TaskRegistry public immutable registry;

    /// @notice Pools and claims.
    RewardDistributor public immutable distributor;

    /// @dev A head with its clock as one word.
    struct StoredHead {
        bytes32 seed;
        bytes32 lastReport;
        uint256 clock;
    }

    mapping(bytes32 task => StoredHead) internal _heads;

    /// @notice A bit is set for a seat that the committee does not have.
    error UnknownSeat(uint256 seats, uint256 numVoters);
    /// @notice Too few seats signed.
    error QuorumMissing(uint256 required, uint256 got);
    /// @notice There must be 64 bytes for each signature.
    error WrongSignatureLength(uint256 expected, uint256 got);
    /// @notice Signature `index` is not by the owner of the seat that it stands for.
    error InvalidSignature(uint256 index, address owner);
    /// @notice Members join or leave at the settlement of this epoch.
    error ChangesDue(bytes32 task, uint256 epoch);
    /// @notice The task is not running.
    error NotRunning(bytes32 task);
    /// @notice The report is not the one that was settled last.
    error NotLastReport(bytes32 expected, bytes32 got);

    constructor(TaskRegistry registry_, RewardDistributor distributor_) EIP712("flock_ray", "1") {
        registry = registry_;
        distributor = distributor_;
    }

    /// @inheritdoc ISettlement
    function headOf(bytes32 task) external view returns (Head memory) {
        StoredHead storage head = _heads[task];
        return Head(head.seed, head.lastReport, Clocks.unpack(head.clock));
    }

    /// @notice Accounts that hold the voter seats of a running task's next epoch, by seat. Not for an epoch at whose
    /// settlement members join or leave: its slots are known before, but stand here only then.
    function committee(bytes32 task) external view returns (address[] memory voters) {
        Clock memory clock = _clockOf(task);
        if (!clock.running) revert NotRunning(task);
        uint256 epoch = uint256(clock.lastSettled) + 1;
        // slither-disable-next-line unused-return: only whether there are any
        (uint256 changes,) = registry.dueAt(task, epoch);
        if (changes != 0) revert ChangesDue(task, epoch);
        return registry.slotOwners(task, _draw(_heads[task].seed, task, epoch, clock));
    }

    /// @notice Slots that take the first `numSeats` seats of an epoch: the voters', then the proposers'.
    function drawSeats(bytes32 seed, bytes32 task, uint64 epoch, uint32 numSlots, uint32 numSeats)
        external
        pure
        returns (uint256[] memory slots)
    {
        return Roles.draw(seed, task, epoch, numSlots, numSeats);
    }

    /// @notice EIP-712 struct hash of a report, its name in the chain of reports.
    function reportHash(Report calldata report) external pure returns (bytes32) {
        return Reports.hash(report);
    }

    /// @notice EIP-712 digest of a report, which voters sign.
    function reportDigest(Report calldata report) external view returns (bytes32) {
        return _hashTypedDataV4(Reports.hash(report));
    }

    /// @notice EIP-712 digest of a member's off-chain message.
    /// @param task Task.
    /// @param epoch Epoch that the message is about.
    /// @param seed Seed of that epoch: after an abandoned epoch the same number may run again under another.
    /// @param kind Kind of the message.
    /// @param digest SHA-256 of the message.
    function messageDigest(bytes32 task, uint64 epoch, bytes32 seed, string calldata kind, bytes32 digest)
        public
        view
        returns (bytes32)
    {
        bytes32 kindHash = keccak256(bytes(kind));
        return _hashTypedDataV4(keccak256(abi.encode(MESSAGE_TYPEHASH, task, epoch, seed, kindHash, digest)));
    }

    /// @notice EIP-712 digest of a correction.
    /// @param report Struct hash of the report that was settled last.
    /// @param disabled Root that the guardian disabled.
    /// @param rewardsRoot Root that takes its place.
    /// @param rewardsTotal Sum of the rewards under it.
    function correctionDigest(bytes32 report, bytes32 disabled, bytes32 rewardsRoot, uint128 rewardsTotal)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(keccak256(abi.encode(CORRECTION_TYPEHASH, report, disabled, rewardsRoot, rewardsTotal)));
    }

    /// @dev Every set bit costs one signature by the owner of that very seat, so no signature counts for a foreign seat.
    /// @param report Tells the epoch and the seed from which its committee is drawn.
    function _checkSignatures(
        Report calldata report,
        Clock memory clock,
        bytes32 digest,
        uint256 seats,
        bytes calldata signatures
    ) internal view {
        uint256[] memory slots = _drawSigners(report, clock, seats);
        uint256 signed = slots.length;
        uint256 quorum;
        unchecked {
            quorum = 2 * uint256(clock.numVoters) / 3 + 1;
        }
        if (signed < quorum) revert QuorumMissing(quorum, signed);
        _checkLength(signatures, signed);
        address[] memory owners = _slotOwners(report.task, slots);
        uint256 foreign = Signatures.firstForeign(digest, signatures, owners);
        if (foreign != signed) revert InvalidSignature(foreign, owners[foreign]);
    }

    /// @dev Slots of the seats that signed.
    function _drawSigners(Report calldata report, Clock memory clock, uint256 seats)
        private
        pure
        returns (uint256[] memory)
    {
        if (seats >> clock.numVoters != 0) revert UnknownSeat(seats, clock.numVoters);
        return Roles.draw(report.seed, report.task, report.epoch, clock.numSlots, clock.numVoters, seats);
    }

    /// @dev `registry.slotOwners` without the copies and checks of arrays that both sides make themselves.
    function _slotOwners(bytes32 task, uint256[] memory slots) private view returns (address[] memory owners) {
        address target = address(registry);
        bytes4 selector = TaskRegistry.slotOwners.selector;
        assembly ("memory-safe") {
            let size := add(32, shl(5, mload(slots)))
            let data := mload(0x40)
            mstore(data, selector)
            mstore(add(data, 4), task)
            mstore(add(data, 36), 64)
            mcopy(add(data, 68), slots, size)
            let done := staticcall(gas(), target, data, add(68, size), data, add(32, size))
            // slither-disable-next-line incorrect-equality: an answer of another size is malformed
            if iszero(and(done, eq(returndatasize(), add(32, size)))) {
                returndatacopy(data, 0, returndatasize())
                revert(data, returndatasize())
            }
            owners := add(data, 32)
            mstore(0x40, add(owners, size))
        }
    }

    function _clockOf(bytes32 task) internal view returns (Clock memory) {
        return Clocks.unpack(_heads[task].clock);
    }

    /// @dev Refuses a report that is not the last settled one; returns its struct hash.
    function _requireLast(Report calldata report) internal view returns (bytes32 hash) {
        hash = Reports.hash(report);
        bytes32 last = _heads[report.task].lastReport;
        if (hash != last) revert NotLastReport(last, hash);
    }

    function _checkLength(bytes calldata signatures, uint256 count) internal pure {
        unchecked {
            if (signatures.length != count * Signatures.LENGTH) {
                revert WrongSignatureLength(count * Signatures.LENGTH, signatures.length);
            }
        }
    }

    function _draw(bytes32 seed, bytes32 task, uint256 epoch, Clock memory clock)
        internal
        pure
        returns (uint256[] memory)
    {
        return Roles.draw(seed, task, epoch, clock.numSlots, clock.numVoters);
    }
}
