// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {FlockToken} from "../src/FlockToken.sol";
import {UsageSettings} from "../src/GatewayStakes.sol";
import {UsageSettlement} from "../src/UsageSettlement.sol";
import {Receipt, Usage} from "../src/libraries/Usage.sol";

/// @notice Proofs for halmos, which takes the arguments of a `check_` function as any value. forge does not run them.
contract UsageProofs is Base {
    address private constant ALICE = address(0xA1);
    address private constant GATEWAY = address(0x6A7E);
    bytes32 private constant BOOK = keccak256("book");

    FlockToken private token;
    UsageSettlement private usage;

    function setUp() public {
        vm.warp(1e9);
        token = new FlockToken(1e27);
        usage = new UsageSettlement(token, UsageSettings(address(0xdead), address(0), 1, 100, 100, 300));
        token.approve(address(usage), type(uint256).max);
        token.transfer(GATEWAY, 1);
        vm.startPrank(GATEWAY);
        token.approve(address(usage), 1);
        usage.stake(1);
        vm.stopPrank();
    }

    /// @notice Nobody takes a deposit out before the delay is over, nor more than it asked for and deposited.
    function check_DepositComesBackAfterTheDelay(uint96 amount, uint96 asked, uint64 later) public {
        if (amount == 0 || amount > 1e26 || later > 1e6) return;
        usage.deposit(GATEWAY, ALICE, amount);
        vm.prank(ALICE);
        try usage.requestWithdrawal(GATEWAY, asked) {
            assert(asked <= amount);
        } catch {
            assert(asked > amount);
            return;
        }
        vm.warp(1e9 + uint256(later));
        vm.prank(ALICE);
        try usage.withdraw(GATEWAY) returns (uint256 paid) {
            assert(later >= 300 && asked != 0 && paid == asked);
            assert(token.balanceOf(ALICE) == asked);
        } catch {
            assert(later < 300 || asked == 0);
            assert(token.balanceOf(ALICE) == 0);
        }
    }

    /// @notice Batches come in their order, and what they charge together only grows.
    function check_BatchesGrow(uint64 number, uint128 first, uint64 next, uint128 second) public {
        vm.startPrank(GATEWAY);
        try usage.settleBatch(BOOK, number, "c", "p", first) {
            assert(number == 1 && first != 0);
        } catch {
            assert(number != 1 || first == 0);
            return;
        }
        try usage.settleBatch(BOOK, next, "c", "p", second) {
            assert(next == 2 && second > first);
        } catch {
            assert(next != 2 || second <= first);
        }
        vm.stopPrank();
    }

    /// @notice Nothing is paid out of a series that has collected nothing, whatever its roots promise, and whoever calls.
    function check_NothingIsPaidOutOfNothing(uint128 total, uint128 cumulative, address caller) public {
        if (total == 0) return;
        bytes32 root = _leaf(cumulative);
        vm.prank(GATEWAY);
        usage.settleBatch(BOOK, 1, "c", root, total);
        vm.warp(1e9 + 100);
        UsageSettlement.Payout memory payout;
        payout.cumulative = cumulative;
        UsageSettlement.Payout memory none;
        vm.startPrank(caller);
        try usage.claim(GATEWAY, BOOK, 1, ALICE, payout) {
            assert(false);
        } catch {}
        try usage.claimShort(GATEWAY, BOOK, 1, ALICE, none, payout) {
            assert(false);
        } catch {}
        vm.stopPrank();
        assert(token.balanceOf(ALICE) == 0);
    }

    function _leaf(uint128 cumulative) private view returns (bytes32) {
        bytes32 series = usage.seriesOf(GATEWAY, BOOK);
        return keccak256(
            bytes.concat(keccak256(abi.encode(block.chainid, address(usage), series, ALICE, uint256(cumulative))))
        );
    }

    /// @notice Receipts that differ in any field have different hashes.
    function check_ReceiptHashBindsEveryField(Receipt calldata one, Receipt calldata other) public pure {
        bool same = keccak256(abi.encode(one)) == keccak256(abi.encode(other));
        assert(same == (Usage.hash(one) == Usage.hash(other)));
    }
}
