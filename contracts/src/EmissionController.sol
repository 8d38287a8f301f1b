// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {FlockToken} from "./FlockToken.sol";

/// @notice When how much new money comes into being.
/// @param beneficiary Account that receives every release: the treasury.
/// @param initialDaily Wei of each day of the first period.
/// @param decayBps What a period's daily amount is below the one before, in basis points.
/// @param periodDays Days of a period.
/// @param start Unix time at which day 0 begins.
/// @param epochMultiple Daily amounts that one epoch of a new task may commit at most.
struct Schedule {
    address beneficiary;
    uint128 initialDaily;
    uint16 decayBps;
    uint32 periodDays;
    uint64 start;
    uint32 epochMultiple;
}

/// @title The only minter of the token, on a schedule that is fixed when it is deployed
/// @notice A day's amount can be released once, by anybody, from the day's beginning, to the beneficiary. Nobody can
/// change the schedule, mint earlier, or mint more. The token's lifetime cap holds whatever the schedule says.
contract EmissionController {
    uint256 private constant BPS = 10_000;
    uint256 private constant ONE = 1e18;

    /// @notice Token that is minted.
    FlockToken public immutable token;

    Schedule private _schedule;

    /// @notice Whether a day's amount has been released.
    mapping(uint256 day => bool) public released;

    /// @notice A day's amount was minted to the beneficiary.
    event Released(uint256 indexed day, uint256 amount);

    /// @notice A field of the schedule has a value that makes no sense.
    error InvalidSchedule(string field);
    /// @notice The day begins only at this time.
    error DayNotBegun(uint256 begins);
    /// @notice The day's amount has been released.
    error AlreadyReleased(uint256 day);

    /// @notice Publishes the schedule; the token's deployer makes this contract the minter next.
    constructor(FlockToken token_, Schedule memory schedule_) {
        if (schedule_.beneficiary == address(0)) revert InvalidSchedule("beneficiary");
        if (schedule_.decayBps > BPS) revert InvalidSchedule("decayBps");
        if (schedule_.periodDays == 0) revert InvalidSchedule("periodDays");
        if (schedule_.epochMultiple == 0) revert InvalidSchedule("epochMultiple");
        token = token_;
        _schedule = schedule_;
    }

    /// @notice Mints a day's amount to the beneficiary, or what the token's cap leaves of it. Anybody may call, once a day
    /// index, for days that have begun; days may be released late and in any order.
    function release(uint256 day) external {
        uint256 begins = _schedule.start + day * 1 days;
        if (block.timestamp < begins) revert DayNotBegun(begins);
        if (released[day]) revert AlreadyReleased(day);
        released[day] = true;

        uint256 amount = emission(day);
        uint256 available = token.CAP() - token.totalMinted();
        if (amount > available) amount = available;
        emit Released(day, amount);
        token.mint(_schedule.beneficiary, amount);
    }

    /// @notice The published schedule.
    function schedule() external view returns (Schedule memory) {
        return _schedule;
    }

    /// @notice The most that an epoch of a task created now may commit of its pool, in wei. A task's pool is held against
    /// it at its creation and never again: what members sign off chain must not become invalid because a day passed.
    function epochCap() external view returns (uint256) {
        uint256 start = _schedule.start;
        uint256 today = block.timestamp < start ? 0 : (block.timestamp - start) / 1 days;
        return _schedule.epochMultiple * emission(today);
    }

    /// @notice Wei of a day: initialDaily * (1 - decay) ^ (periods passed), rounded down.
    function emission(uint256 day) public view returns (uint256) {
        uint256 factor = ONE;
        // slither-disable-next-line divide-before-multiply: fixed-point numbers, rounded down after each product
        uint256 base = (BPS - _schedule.decayBps) * ONE / BPS;
        for (uint256 left = day / _schedule.periodDays; left != 0; left >>= 1) {
            // slither-disable-next-line divide-before-multiply,incorrect-equality: as above; a bit is 0 or 1
            if (left & 1 == 1) factor = factor * base / ONE;
            // slither-disable-next-line divide-before-multiply: as above
            base = base * base / ONE;
        }
        return _schedule.initialDaily * factor / ONE;
    }
}
