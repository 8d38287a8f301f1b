// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice A task's clock, one word.
/// @param lastSettled Number of the last settled or abandoned epoch.
/// @param numEpochs Epochs of the task.
/// @param skips Epochs abandoned in a row.
/// @param numSlots Slots of all members in the epoch that was settled last.
/// @param epochStart Unix time at which the last epoch was settled or abandoned, or the task started.
/// @param numVoters Voter seats of an epoch.
/// @param running Whether epochs can be settled.
/// @param changing Whether members that join or leave wait.
/// @param absent Bitmap of the voter seats whose signature the last report came without.
struct Clock {
    uint24 lastSettled;
    uint24 numEpochs;
    uint24 skips;
    uint32 numSlots;
    uint40 epochStart;
    uint8 numVoters;
    bool running;
    bool changing;
    uint96 absent;
}

/// @title A clock as the word that is stored
library Clocks {
    uint256 private constant RUNNING = 1 << 152;
    uint256 private constant CHANGING = 1 << 153;

    /// @dev What a settlement keeps: epochs, slots, voters, whether epochs go on, and whether members change.
    uint256 private constant KEPT = (1 << 48) - 1 | (1 << 32) - 1 << 72 | (1 << 8) - 1 << 144 | RUNNING | CHANGING;

    /// @notice The word of a clock.
    function pack(Clock memory clock) internal pure returns (uint256) {
        return uint256(clock.lastSettled) | uint256(clock.numEpochs) << 24 | uint256(clock.skips) << 48
            | uint256(clock.numSlots) << 72 | uint256(clock.epochStart) << 104 | uint256(clock.numVoters) << 144
            | (clock.running ? RUNNING : 0) | (clock.changing ? CHANGING : 0) | uint256(clock.absent) << 160;
    }

    /// @notice The word after an epoch was settled.
    /// @param word The clock before.
    /// @param absent Bitmap of the seats that did not sign.
    function settled(uint256 word, uint256 absent) internal view returns (uint256) {
        unchecked {
            uint256 kept = (word + 1) & KEPT; // the last settled epoch is below the number of epochs
            return kept | uint256(uint40(block.timestamp)) << 104 | absent << 160;
        }
    }

    /// @notice The word of a task whose epochs are over.
    function stopped(uint256 word) internal pure returns (uint256) {
        return word & ~RUNNING;
    }

    /// @notice The clock of a word.
    function unpack(uint256 word) internal pure returns (Clock memory) {
        return Clock({
            lastSettled: uint24(word),
            numEpochs: uint24(word >> 24),
            skips: uint24(word >> 48),
            numSlots: uint32(word >> 72),
            epochStart: uint40(word >> 104),
            numVoters: uint8(word >> 144),
            running: word & RUNNING != 0,
            changing: word & CHANGING != 0,
            absent: uint96(word >> 160)
        });
    }
}
