// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Clock, Clocks} from "../src/libraries/Clocks.sol";

contract ClocksTest is Base {
    function testFuzz_WordHoldsEveryField(Clock memory clock) public pure {
        Clock memory again = Clocks.unpack(Clocks.pack(clock));
        vm.assertEq(keccak256(abi.encode(again)), keccak256(abi.encode(clock)));
    }

    function testFuzz_SettledMovesWhatItShould(Clock memory clock, uint96 absent, uint40 time) public {
        if (clock.lastSettled == type(uint24).max) clock.lastSettled = 0;
        vm.warp(time);
        uint256 word = Clocks.settled(Clocks.pack(clock), absent);
        clock.lastSettled += 1;
        clock.skips = 0;
        clock.epochStart = time;
        clock.absent = absent;
        vm.assertEq(word, Clocks.pack(clock));
    }
}
