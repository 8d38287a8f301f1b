// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TaskTerms} from "./TaskTerms.sol";

/// @notice A member that joins or leaves while its task runs, or after another left it before its start.
/// @param member Index of the member.
/// @param slots Its slots.
/// @param epoch First epoch that may be drawn with the change; zero: the first of all.
/// @param leaves Whether it leaves.
struct Change {
    uint32 member;
    uint32 slots;
    uint32 epoch;
    bool leaves;
}

/// @notice Who holds the slots of a task, and what is to change there.
/// @param applied Changes that the slots show already.
/// @param announced Changes asked for so far.
/// @param left Members that are out.
/// @param planned Slots after all changes asked for; counts only while some wait.
/// @param changes All changes, in the order in which they were asked for.
/// @param slots Holding of each slot: the owner's address, then the number of the slot among its owner's.
/// @param moved Slot, plus one, at which a holding stands that is not where it began.
struct Roster {
    uint32 applied;
    uint32 announced;
    uint32 left;
    uint32 planned;
    mapping(uint256 number => Change) changes;
    mapping(uint256 slot => uint256 holding) slots;
    mapping(uint256 holding => uint256 slotPlusOne) moved;
}

/// @title Slots of a task whose members come and go
/// @notice The slots stay a dense list. Who joins gets new ones at the end. Who leaves gives its own up from the last to
/// the first, and each time the slot at the end of the list moves to the free place. Changes are applied in the order in
/// which they were asked for, at settlements only: the slots follow from the number of changes applied so far.
/// @dev A slot costs its first owner a word of storage: nobody counts 2^32 of them.
library Membership {
    /// @notice Most slots that change in one settlement; what comes behind waits for the next one. No member has more.
    uint256 internal constant MAX_CHANGED_SLOTS = TaskTerms.MAX_SLOTS;

    /// @notice Adds a change behind those that wait.
    /// @param numSlots Slots now.
    /// @return first The member's first slot, if it joins.
    function announce(Roster storage roster, Change memory change, uint32 numSlots) internal returns (uint32 first) {
        unchecked {
            uint32 number = roster.announced;
            first = number == roster.applied ? numSlots : roster.planned;
            roster.changes[number] = change;
            roster.announced = number + 1;
            roster.planned = change.leaves ? first - change.slots : first + change.slots;
        }
    }

    /// @notice Notes a change that the slots show already, of a task that has not started.
    function record(Roster storage roster, Change memory change) internal {
        unchecked {
            uint32 number = roster.announced;
            roster.changes[number] = change;
            (roster.applied, roster.announced) = (number + 1, number + 1);
        }
    }

    /// @notice Changes that the settlement of an epoch applies: those that are due, as far as its work goes.
    /// @param numSlots Slots now.
    /// @return end Number of the first change that goes on waiting.
    /// @return then Slots after the changes before it.
    function due(Roster storage roster, uint256 epoch, uint32 numSlots)
        internal
        view
        returns (uint32 end, uint32 then)
    {
        // slither-disable-next-line uninitialized-local: from zero up
        uint256 work;
        then = numSlots;
        unchecked {
            for (end = roster.applied; end < roster.announced; ++end) {
                Change storage change = roster.changes[end];
                work += change.slots;
                if (change.epoch > epoch || work > MAX_CHANGED_SLOTS) break;
                then = change.leaves ? then - change.slots : then + change.slots;
            }
        }
    }

    /// @notice Gives `account` the slots from `first` on.
    function fill(Roster storage roster, address account, uint256 first, uint256 slots) internal {
        unchecked {
            for (uint256 i; i < slots; ++i) {
                roster.slots[first + i] = _holding(account, i);
            }
        }
    }

    /// @notice Takes all slots of `account`, whose first one was `first`.
    /// @param end Slots now.
    function vacate(Roster storage roster, address account, uint256 first, uint256 slots, uint256 end) internal {
        unchecked {
            while (slots != 0) {
                uint256 slotPlusOne = roster.moved[_holding(account, --slots)];
                uint256 slot = slotPlusOne == 0 ? first + slots : slotPlusOne - 1;
                if (slot != --end) {
                    uint256 last = roster.slots[end];
                    roster.slots[slot] = last;
                    roster.moved[last] = slot + 1;
                }
                delete roster.slots[end];
            }
        }
    }

    function _holding(address account, uint256 number) private pure returns (uint256) {
        return uint256(uint160(account)) << 96 | number;
    }
}
