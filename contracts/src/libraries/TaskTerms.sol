// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What a creator fixes for a task's whole life; members read it before they join.
/// @param termsHash Hash of the off-chain parameters.
/// @param modelHash Hash of the global adapter at the start.
/// @param targetSetHash Hash of the target evaluation set that is opened at the end, zero for none.
/// @param pool Reward pool in wei.
/// @param minStake Stake of one slot in wei.
/// @param maxSlots Most slots of one member.
/// @param numVoters Voter seats of an epoch.
/// @param numProposers Proposer seats of an epoch (drawn off chain after the voters).
/// @param minMembers Members needed to start.
/// @param maxMembers Members that fit.
/// @param numEpochs Epochs, settled or abandoned, after which the task closes.
/// @param maxUnsettled Epochs that settlement may lag behind training.
/// @param maxSkips Abandoned epochs in a row that close the task.
/// @param endShareBps Part of the pool that only the last epoch may commit, in basis points.
/// @param epochDeadline Seconds an epoch may take.
/// @param joinWindow Seconds from the creation in which members may join.
/// @param fixedGenesis Whether the first seed is the creator's (embedded chains) or the hash of a later block.
struct Terms {
    bytes32 termsHash;
    bytes32 modelHash;
    bytes32 targetSetHash;
    uint128 pool;
    uint128 minStake;
    uint32 maxSlots;
    uint32 numVoters;
    uint32 numProposers;
    uint32 minMembers;
    uint32 maxMembers;
    uint32 numEpochs;
    uint32 maxUnsettled;
    uint32 maxSkips;
    uint32 endShareBps;
    uint64 epochDeadline;
    uint64 joinWindow;
    bool fixedGenesis;
}

/// @title Bounds of a task's terms
library TaskTerms {
    bytes32 private constant TAG = keccak256("flock_ray/task/2");

    /// @notice Upper bound of `Terms.minStake`: what the vault counts with.
    uint256 internal constant MAX_STAKE = type(uint96).max;

    /// @notice Upper bound of `Terms.maxSlots`: joining writes one word a slot.
    uint256 internal constant MAX_SLOTS = 256;

    /// @notice Upper bound of `Terms.numVoters`: the seats that did not sign share a word with the task's clock.
    uint256 internal constant MAX_VOTERS = 96;

    /// @notice Upper bound of `Terms.numEpochs`, for the same reason.
    uint256 internal constant MAX_EPOCHS = type(uint24).max;

    /// @notice Upper bound of `Terms.joinWindow`: whoever joins is held no longer by a task that does not start.
    uint256 internal constant MAX_JOIN_WINDOW = 30 days;

    /// @notice Upper bound of `Terms.epochDeadline`.
    uint256 internal constant MAX_EPOCH_DEADLINE = 7 days;

    /// @notice Upper bound of the time in which all epochs are settled or abandoned, the grace of each included: stakes are
    /// held no longer.
    uint256 internal constant MAX_LIFE = 10 * 365 days;

    /// @notice Upper bound of `Terms.endShareBps`: the whole pool.
    uint256 internal constant BPS = 10_000;

    /// @notice A field of the terms has a value that no task can run with.
    error InvalidTerms(string field);

    /// @notice What members compare with their own configuration before they join: hash of the creator and all terms.
    function digest(address creator, Terms calldata terms) internal pure returns (bytes32) {
        return keccak256(abi.encode(creator, terms));
    }

    /// @notice What members and nodes of a contest expect: hash of the former, and of a node's least stake.
    function contestDigest(bytes32 termsDigest, uint96 nodeStake) internal pure returns (bytes32) {
        return keccak256(abi.encode(termsDigest, nodeStake));
    }

    /// @notice Identifier of a task: nobody but its creator, with these terms and this seed, can take it.
    function identifier(bytes32 termsDigest, bytes32 seed) internal pure returns (bytes32) {
        return keccak256(abi.encode(TAG, termsDigest, seed));
    }

    /// @notice Refuses terms that no task can run with.
    /// @param grace Seconds between the two calls that abandon an epoch.
    function check(Terms calldata terms, bytes32 seed, uint256 grace) internal pure {
        if (terms.minStake == 0 || terms.minStake > MAX_STAKE) revert InvalidTerms("minStake");
        if (terms.maxSlots == 0 || terms.maxSlots > MAX_SLOTS) revert InvalidTerms("maxSlots");
        if (terms.numVoters == 0 || terms.numVoters > MAX_VOTERS) revert InvalidTerms("numVoters");
        if (terms.numProposers == 0) revert InvalidTerms("numProposers");
        if (terms.minMembers == 0) revert InvalidTerms("minMembers");
        if (terms.maxMembers < terms.minMembers) revert InvalidTerms("maxMembers");
        if (uint256(terms.maxMembers) * terms.maxSlots <= terms.numVoters) revert InvalidTerms("maxMembers");
        if (terms.numEpochs == 0 || terms.numEpochs > MAX_EPOCHS) revert InvalidTerms("numEpochs");
        if (terms.maxSkips == 0) revert InvalidTerms("maxSkips");
        if (terms.endShareBps > BPS) revert InvalidTerms("endShareBps");
        if (terms.epochDeadline == 0 || terms.epochDeadline > MAX_EPOCH_DEADLINE) revert InvalidTerms("epochDeadline");
        uint256 wait = terms.epochDeadline * (uint256(terms.maxUnsettled) + 1) + grace;
        if (terms.numEpochs * wait > MAX_LIFE) revert InvalidTerms("numEpochs");
        if (terms.joinWindow == 0 || terms.joinWindow > MAX_JOIN_WINDOW) revert InvalidTerms("joinWindow");
        if (terms.fixedGenesis && seed == 0) revert InvalidTerms("seed");
    }
}
