// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Seats of an epoch, drawn without replacement by a partial Fisher-Yates shuffle over the slots
library Roles {
    /// @notice Domain tag of the draw.
    bytes32 internal constant TAG = keccak256("flock_ray/roles/1");

    /// @notice There are fewer slots than seats.
    error TooFewSlots(uint256 numSlots, uint256 numSeats);

    /// @notice Slots that take seats 0 .. `numSeats` - 1.
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
        return draw(seed, task, epoch, numSlots, numSeats, type(uint256).max);
    }

    /// @notice Slots that take some of the seats 0 .. `numSeats` - 1.
    /// @dev The shuffle is sparse: only positions that a swap touched are kept, in a hash table in memory, so that time
    /// and memory grow with the seats and not with the slots.
    /// @param seats Bitmap of the seats; all bits set stand for all seats, however many these are.
    /// @return slots One for each seat of the bitmap, ascending.
    function draw(bytes32 seed, bytes32 task, uint256 epoch, uint256 numSlots, uint256 numSeats, uint256 seats)
        internal
        pure
        returns (uint256[] memory slots)
    {
        if (numSlots < numSeats) revert TooFewSlots(numSlots, numSeats);
        bytes32 domain = TAG;
        uint256 table;
        assembly ("memory-safe") {
            let size := shl(7, numSeats)
            slots := mload(0x40)
            let words := add(slots, add(32, shl(5, numSeats)))
            table := add(words, 160)
            mstore(0x40, add(table, size))
            mstore(slots, numSeats)
            mstore(words, domain)
            mstore(add(words, 32), seed)
            mstore(add(words, 64), task)
            mstore(add(words, 96), epoch)
            calldatacopy(table, calldatasize(), size) // zeros
        }
        _fill(slots, table, numSlots, seats);
    }

    /// @dev Fills `slots` from `numSlots` positions and cuts it to the seats that are wanted.
    /// @param slots Where the drawn slots go, with room for all seats.
    /// @param table Memory position of an empty hash table, four words a seat: (position + 1) << 128 | the slot that stands
    /// there now; 0 is free. In front of it are tag, seed, task, epoch and room for the seat.
    /// @param numSlots Slots to draw from.
    /// @param seats Bitmap of the wanted seats; the last of them is the last that is drawn.
    function _fill(uint256[] memory slots, uint256 table, uint256 numSlots, uint256 seats) private pure {
        assembly ("memory-safe") {
            // From a used entry on: that of a position, used or free, and the slot that stands there, its own until a swap.
            function follow(table_, size_, entry_, position, content) -> entry, slot {
                entry := entry_
                for {} content {} {
                    if eq(shr(128, content), add(position, 1)) {
                        slot := and(content, 0xffffffffffffffffffffffffffffffff)
                        leave
                    }
                    entry := add(entry, 32)
                    if eq(entry, add(table_, size_)) { entry := table_ }
                    content := mload(entry)
                }
                slot := position
            }
            let to := add(slots, 32)
            let size := shl(7, mload(slots))
            for { let i := 0 } mul(seats, lt(i, mload(slots))) { i := add(i, 1) } {
                mstore(sub(table, 32), i)
                let j := add(i, mod(keccak256(sub(table, 160), 160), sub(numSlots, i)))
                let entry := add(table, mod(shl(5, j), size))
                let slot := j
                let content := mload(entry)
                if content { entry, slot := follow(table, size, entry, j, content) }
                mstore(to, slot)
                to := add(to, shl(5, and(seats, 1)))
                seats := sar(1, seats)

                slot := i
                let other := add(table, shl(5, i))
                content := mload(other)
                if content { other, slot := follow(table, size, other, i, content) }
                mstore(entry, or(shl(128, add(j, 1)), slot))
            }
            mstore(slots, shr(5, sub(sub(to, slots), 32)))
        }
    }
}
