// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice Takes up to `amount` wei from the stake of the member with index `member`.
struct Slash {
    uint32 member;
    uint128 amount;
}

/// @notice What a quorum of an epoch's voters signs about that epoch (fields as in the EIP-712 type below).
/// @param task Task identifier.
/// @param epoch Number of the epoch, from 1.
/// @param previousReport Struct hash of the last settled report, zero for the first.
/// @param seed Seed of the epoch, from which its committee is drawn.
/// @param revealsDigest Digest of the voters' reveals; makes the next seed.
/// @param rewardsRoot Merkle root of the cumulative rewards of all accounts.
/// @param rewardsTotal Sum of these cumulative rewards in wei, over all epochs.
/// @param slashes Penalties of this epoch.
/// @param modelHash Hash of the global adapter after the epoch.
/// @param recordHash Hash of the epoch's record, from which anybody can replay it.
/// @param relayer Account that gets the relayer's part of the slashes.
struct Report {
    bytes32 task;
    uint64 epoch;
    bytes32 previousReport;
    bytes32 seed;
    bytes32 revealsDigest;
    bytes32 rewardsRoot;
    uint128 rewardsTotal;
    Slash[] slashes;
    bytes32 modelHash;
    bytes32 recordHash;
    address relayer;
}

/// @title EIP-712 struct hashes of reports
library Reports {
    /// @notice EIP-712 type hash of `Slash`.
    bytes32 internal constant SLASH_TYPEHASH = keccak256("Slash(uint32 member,uint128 amount)");

    /// @notice EIP-712 type hash of `Report`.
    bytes32 internal constant REPORT_TYPEHASH = keccak256(
        "Report(bytes32 task,uint64 epoch,bytes32 previousReport,bytes32 seed,bytes32 revealsDigest,bytes32 rewardsRoot,uint128 rewardsTotal,Slash[] slashes,bytes32 modelHash,bytes32 recordHash,address relayer)Slash(uint32 member,uint128 amount)"
    );

    /// @notice Encoding of an empty array.
    bytes32 internal constant NO_SLASHES = keccak256("");

    /// @notice `hashStruct(report)` of EIP-712, without the domain.
    /// @dev In calldata a report is its eleven words in a row, with an offset where EIP-712 wants the hash of the slashes.
    function hash(Report calldata report) internal pure returns (bytes32 structHash) {
        bytes32 typeHash = REPORT_TYPEHASH;
        bytes32 slashes = hash(report.slashes);
        assembly ("memory-safe") {
            let words := mload(0x40)
            mstore(words, typeHash)
            calldatacopy(add(words, 32), report, 352)
            mstore(add(words, 256), slashes)
            structHash := keccak256(words, 384)
        }
    }

    /// @notice EIP-712 encoding of an array of structs: the hash of its members' struct hashes in a row.
    function hash(Slash[] calldata slashes) internal pure returns (bytes32) {
        if (slashes.length == 0) return NO_SLASHES;
        bytes32[] memory hashes = new bytes32[](slashes.length);
        for (uint256 i; i < slashes.length; ++i) {
            hashes[i] = keccak256(abi.encode(SLASH_TYPEHASH, slashes[i].member, slashes[i].amount));
        }
        return keccak256(abi.encodePacked(hashes));
    }
}
