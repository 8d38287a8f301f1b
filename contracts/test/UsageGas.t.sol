// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Merkle} from "./Merkle.sol";
import {UsageFixture} from "./UsageFixture.sol";

/// @notice Gas of whole transactions, intrinsic and calldata costs included, against ceilings. `-vv` prints the numbers.
/// What a batch costs grows with its users and payees, not with their requests.
contract UsageGasTest is UsageFixture {
    address private constant CONSOLE = 0x000000000000000000636F6e736F6c652e6c6f67;
    uint256 private constant MANY = 100;
    uint256 private constant REQUESTS = 1_000; // of each user in a batch

    uint256[] private charged;
    uint256[] private payouts = _amounts(0, 0, 0);
    uint256 private spent; // of the batch

    function setUp() public override {
        super.setUp();
        for (uint256 i = USERS; i < MANY; ++i) {
            users.push(vm.addr(i + 1));
            usage.deposit(GATEWAY, users[i], 100 ether);
        }
        charged = new uint256[](MANY);
    }

    function _measure(string memory transaction, uint256 parts, uint256 ceiling) private {
        uint256 used = vm.lastCallGas().gasTotalUsed;
        spent += used;
        _print(transaction, used / parts, ceiling);
    }

    function _print(string memory what, uint256 gas, uint256 ceiling) private view {
        CONSOLE.staticcall(abi.encodeWithSignature("log(string,uint256)", what, gas));
        vm.assertLt(gas, ceiling, what);
    }

    /// forge-config: default.isolate = true
    function test_Batches() public {
        usage.deposit(GATEWAY, users[0], 1 ether);
        _measure("deposit again", 1, 60_000);
        for (uint64 number = 1; number <= 3; ++number) {
            spent = 0;
            for (uint256 i; i < MANY; ++i) {
                charged[i] += 1 ether + 12_345_678_901 * i;
            }
            uint256 total = _sum(charged);
            (payouts[0], payouts[1], payouts[2]) = (total / 2, total / 4, total - total / 2 - total / 4);
            _settle(charged, payouts);
            _measure("settleBatch", 1, 155_000);
            _activate();
            _collect(number, charged);
            _measure("collect from 100 users, each", MANY, number == 1 ? 52_000 : 32_000);
            for (uint256 i; i < payees.length; ++i) {
                _claim(number, payouts, i);
                _measure("claim among 3", 1, number == 1 ? 140_000 : 75_000);
            }
            _print("a batch of 100 users, each user", spent / MANY, number == 1 ? 58_000 : 36_000);
            _print("a batch of 100,000 requests, each 1,000", spent * 1_000 / (MANY * REQUESTS), 58_000);
        }
    }
}
