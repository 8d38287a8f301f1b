// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {EmissionController, Schedule} from "../src/EmissionController.sol";
import {FlockToken} from "../src/FlockToken.sol";

contract EmissionTest is Base {
    address private constant TREASURY = address(0x7E);
    address private constant STRANGER = address(0x50);
    uint64 private constant START = 1_000_000;

    FlockToken private token;
    EmissionController private emission;

    function setUp() public {
        vm.warp(START - 10);
        _deploy(Schedule(TREASURY, 1000 ether, 1000, 30, START, 10));
    }

    function _deploy(Schedule memory schedule) private {
        token = new FlockToken(0);
        emission = new EmissionController(token, schedule);
        token.setMinter(address(emission));
    }

    function test_DayIsReleasedOnceFromItsBeginning() public {
        vm.expectRevert(abi.encodeWithSelector(EmissionController.DayNotBegun.selector, START));
        emission.release(0);
        vm.warp(START + 2 days - 1);
        vm.expectRevert(abi.encodeWithSelector(EmissionController.DayNotBegun.selector, START + 2 days));
        emission.release(2);
        vm.startPrank(STRANGER);
        emission.release(1); // late and in any order
        emission.release(0);
        vm.stopPrank();
        vm.expectRevert(abi.encodeWithSelector(EmissionController.AlreadyReleased.selector, 1));
        emission.release(1);
        vm.assertEq(token.balanceOf(TREASURY), 2000 ether);
        vm.assertEq(token.totalSupply(), 2000 ether);
        vm.assertTrue(emission.released(0) && !emission.released(2), "what was released is told");
    }

    function test_PeriodsDecay() public view {
        vm.assertEq(emission.emission(0), 1000 ether);
        vm.assertEq(emission.emission(29), 1000 ether);
        vm.assertEq(emission.emission(30), 900 ether);
        vm.assertEq(emission.emission(60), 810 ether);
        vm.assertEq(emission.emission(90), 729 ether);
        vm.assertEq(emission.emission(1e9), 0);
        vm.assertEq(emission.schedule().beneficiary, TREASURY);
    }

    function testFuzz_EmissionNeverRises(uint16 decay, uint32 period, uint256 day, uint256 later) public {
        decay = uint16(bound(decay, 0, 10_000));
        period = uint32(bound(period, 1, 1000));
        day = bound(day, 0, 100_000);
        later = bound(later, day, 200_000);
        _deploy(Schedule(TREASURY, 1000 ether, decay, period, START, 1));
        vm.assertLe(emission.emission(later), emission.emission(day), "emission rises");
        vm.assertLe(emission.emission(day), 1000 ether, "more than the first day's");
    }

    /// @dev Whatever the schedule promises, the token's lifetime cap stands, and a burn makes no room.
    function test_ScheduleBeyondCapIsCutOff() public {
        _deploy(Schedule(TREASURY, 6e8 ether, 0, 1, START, 1));
        vm.warp(START + 3 days);
        emission.release(0);
        vm.prank(TREASURY);
        token.burn(6e8 ether);
        emission.release(1);
        emission.release(2);
        vm.assertEq(token.totalMinted(), token.CAP());
        vm.assertEq(token.totalSupply(), 4e8 ether);
    }

    function test_EpochCapFollowsTheDay() public {
        vm.assertEq(emission.epochCap(), 10_000 ether); // before the start: the first day's
        vm.warp(START + 30 days - 1);
        vm.assertEq(emission.epochCap(), 10_000 ether);
        vm.warp(START + 30 days);
        vm.assertEq(emission.epochCap(), 9000 ether);
    }

    function test_SchedulesWithoutSenseAreRefused() public {
        _refused(Schedule(address(0), 1, 0, 1, 0, 1), "beneficiary");
        _refused(Schedule(TREASURY, 1, 10_001, 1, 0, 1), "decayBps");
        _refused(Schedule(TREASURY, 1, 0, 0, 0, 1), "periodDays");
        _refused(Schedule(TREASURY, 1, 0, 1, 0, 0), "epochMultiple");
    }

    function _refused(Schedule memory schedule, string memory field) private {
        vm.expectRevert(abi.encodeWithSelector(EmissionController.InvalidSchedule.selector, field));
        new EmissionController(token, schedule);
    }
}
