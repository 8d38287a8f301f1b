// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Seats of an epoch, drawn without replacement by a partial Fisher-Yates shuffle over the slots
library Roles {
    /// @notice Domain tag of the draw.
    bytes32 internal constant TAG = keccak256("flock_ray/roles/1");

    /// @notice There are fewer slots than seats.
    error TooFewSlots(uint256 numSlots, uint256 numSeats);

    /// @notice Slots that take seats 0 .. `numSeats` - 1.
    /// @dev The shuffle is sparse: only positions that a swap touched are kept, in a hash table in memory, so that time
    /// and memory grow with the seats and not with the slots.
    /// @param seed Seed of the epoch.
    /// @param task Task identifier.
    /// @param epoch Number of the epoch.
    /// @param numSlots Slots to draw from, at least `numSeats`.
    /// @param numSeats Seats to fill.
    function draw(bytes32 seed, bytes32 task, uint256 epoch, uint256 numSlots, uint256 numSeats)
        internal
        pure
        returns (uint256[] memory slots)
    {
        if (numSlots < numSeats) revert TooFewSlots(numSlots, numSeats);
        slots = new uint256[](numSeats);
        uint256 size = 1;
        unchecked {
            while (size < 2 * numSeats) size <<= 1;
        }
        uint256[] memory moved = new uint256[](size); // (position + 1) << 128 | slot that stands there now; 0 is free
        bytes32 domain = TAG;
        uint256 words;
        assembly ("memory-safe") {
            words := mload(0x40)
            mstore(0x40, add(words, 160))
            mstore(words, domain)
            mstore(add(words, 32), seed)
            mstore(add(words, 64), task)
            mstore(add(words, 96), epoch)
        }
        _fill(slots, moved, words, numSlots);
    }

    /// @dev Fills `slots` from `numSlots` positions.
    /// @param slots Where the drawn slots go, one a seat.
    /// @param moved Empty hash table, a power of two and twice the seats at least.
    /// @param words Memory position of tag, seed, task and epoch, with room for the seat behind them.
    /// @param numSlots Slots to draw from.
    function _fill(uint256[] memory slots, uint256[] memory moved, uint256 words, uint256 numSlots) private pure {
        assembly ("memory-safe") {
            let table := add(moved, 32)
            let mask := sub(shl(5, mload(moved)), 32)
            // From a used entry on: that of a position, used or free, and the slot that stands there, its own until a swap.
            function follow(table_, mask_, entry_, position, content) -> entry, slot {
                entry := entry_
                for {} content {} {
                    if eq(shr(128, content), add(position, 1)) {
                        slot := and(content, 0xffffffffffffffffffffffffffffffff)
                        leave
                    }
                    entry := add(table_, and(add(sub(entry, table_), 32), mask_))
                    content := mload(entry)
                }
                slot := position
            }
            let to := add(slots, 32)
            for { let i := 0 } lt(i, mload(slots)) { i := add(i, 1) } {
                mstore(add(words, 128), i)
                let j := add(i, mod(keccak256(words, 160), sub(numSlots, i)))
                let entry := add(table, and(shl(5, j), mask))
                let slot := j
                let content := mload(entry)
                if content { entry, slot := follow(table, mask, entry, j, content) }
                mstore(to, slot)
                to := add(to, 32)

                slot := i
                let other := add(table, and(shl(5, i), mask))
                content := mload(other)
                if content { other, slot := follow(table, mask, other, i, content) }
                mstore(entry, or(shl(128, add(j, 1)), slot))
            }
        }
    }
}
