// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Roles} from "../src/libraries/Roles.sol";

contract RolesTest is Base {
    bytes32 private constant SEED = keccak256("seed");
    bytes32 private constant TASK = keccak256("task");

    /// @dev Values made by another implementation.
    function test_GoldenVectors() public pure {
        uint8[8] memory all = [7, 1, 2, 0, 3, 6, 5, 4];
        uint256[] memory slots = Roles.draw(SEED, TASK, 3, 8, 8);
        for (uint256 i; i < 8; ++i) {
            vm.assertEq(slots[i], all[i]);
        }
        uint16[12] memory few = [1727, 7904, 1368, 5064, 8499, 9382, 7460, 7788, 4853, 6975, 592, 9732];
        slots = Roles.draw(SEED, TASK, 3, 10_000, 12);
        for (uint256 i; i < 12; ++i) {
            vm.assertEq(slots[i], few[i]);
        }
        vm.assertEq(Roles.draw(SEED, TASK, 3, 1, 1)[0], 0);
    }

    /// @dev The sparse shuffle equals the textbook one on a full array.
    function testFuzz_EqualsDenseShuffle(bytes32 seed, bytes32 task, uint64 epoch, uint256 numSlots, uint256 numSeats)
        public
        pure
    {
        numSlots = bound(numSlots, 1, 80);
        numSeats = bound(numSeats, 1, numSlots);
        uint256[] memory dense = new uint256[](numSlots);
        for (uint256 i; i < numSlots; ++i) {
            dense[i] = i;
        }
        uint256[] memory slots = Roles.draw(seed, task, epoch, numSlots, numSeats);
        for (uint256 i; i < numSeats; ++i) {
            bytes32 draw = keccak256(abi.encode(keccak256("flock_ray/roles/1"), seed, task, uint256(epoch), i));
            uint256 j = i + uint256(draw) % (numSlots - i);
            (dense[i], dense[j]) = (dense[j], dense[i]);
            vm.assertEq(slots[i], dense[i]);
        }
    }

    function testFuzz_SlotsAreDistinct(bytes32 seed, uint32 numSlots, uint256 numSeats) public pure {
        numSlots = uint32(bound(numSlots, 1, type(uint32).max));
        numSeats = bound(numSeats, 1, numSlots < 64 ? numSlots : 64);
        uint256[] memory slots = Roles.draw(seed, TASK, 1, numSlots, numSeats);
        for (uint256 i; i < numSeats; ++i) {
            vm.assertLt(slots[i], numSlots, "slot out of range");
            for (uint256 j; j < i; ++j) {
                vm.assertTrue(slots[i] != slots[j], "slot drawn twice");
            }
        }
    }

    /// @dev A bitmap picks seats of the same draw, in their order, and what stands in memory behind them is left alone.
    function testFuzz_SomeSeats(uint64 epoch, uint256 numSlots, uint256 numSeats, uint256 seats) public pure {
        numSlots = bound(numSlots, 1, 300);
        numSeats = bound(numSeats, 1, numSlots < 200 ? numSlots : 200);
        seats &= (1 << numSeats) - 1;
        uint256[] memory all = Roles.draw(SEED, TASK, epoch, numSlots, numSeats);
        bytes32 kept = keccak256(abi.encode(all));
        uint256[] memory some = Roles.draw(SEED, TASK, epoch, numSlots, numSeats, seats);
        uint256 found;
        for (uint256 seat; seat < numSeats; ++seat) {
            if ((seats >> seat) & 1 == 1) vm.assertEq(some[found++], all[seat]);
        }
        vm.assertEq(some.length, found);
        vm.assertEq(keccak256(abi.encode(all)), kept);
    }

    function test_MoreSeatsThanABitmapHas() public pure {
        uint256[] memory slots = Roles.draw(SEED, TASK, 3, 300, 300);
        uint256 sum;
        for (uint256 i; i < 300; ++i) {
            sum += slots[i];
        }
        vm.assertEq(slots.length, 300);
        vm.assertEq(sum, 299 * 150);
    }

    /// @dev Each of 5 slots takes each of 3 seats in a fifth of the draws, within five standard deviations.
    function test_SeatsAreUniform() public pure {
        uint256 draws = 2000;
        uint256[5][3] memory count;
        for (uint256 epoch; epoch < draws; ++epoch) {
            uint256[] memory slots = Roles.draw(SEED, TASK, epoch, 5, 3);
            for (uint256 seat; seat < 3; ++seat) {
                ++count[seat][slots[seat]];
            }
        }
        for (uint256 seat; seat < 3; ++seat) {
            for (uint256 slot; slot < 5; ++slot) {
                vm.assertLt(count[seat][slot], 400 + 90, "slot too frequent");
                vm.assertLt(400 - 90, count[seat][slot], "slot too rare");
            }
        }
    }
}
