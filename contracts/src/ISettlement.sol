// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Clock} from "./libraries/Clocks.sol";

/// @notice What the next report is checked against.
/// @param seed Seed of the next epoch.
/// @param lastReport Struct hash of the last settled report, zero before the first.
/// @param clock The rest.
struct Head {
    bytes32 seed;
    bytes32 lastReport;
    Clock clock;
}

/// @title What the registry needs of the settlement contract
interface ISettlement {
    /// @notice Begins the epochs of a task; only the registry, once a task.
    /// @param task Task.
    /// @param seed Seed of the first epoch.
    /// @param numEpochs Epochs of the task.
    /// @param numSlots Slots of all members.
    /// @param numVoters Voter seats of an epoch.
    function open(bytes32 task, bytes32 seed, uint32 numEpochs, uint32 numSlots, uint32 numVoters) external;

    /// @notice Tells that a change of a running task's members waits; only the registry.
    function expectChange(bytes32 task) external;

    /// @notice Seconds between the two calls that slash an absent voter, or abandon an epoch; zero: one call does.
    function grace() external view returns (uint64);

    /// @notice What a task's next report is checked against; all zero before the task started.
    function headOf(bytes32 task) external view returns (Head memory);
}
