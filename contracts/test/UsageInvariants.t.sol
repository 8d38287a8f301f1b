// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Merkle} from "./Merkle.sol";
import {UsageFixture} from "./UsageFixture.sol";
import {UsageSettlement} from "../src/UsageSettlement.sol";
import {Charge, Receipt} from "../src/libraries/Usage.sol";

/// @notice Acts as users, payees, gateway and accusers at random, and keeps books of its own.
contract UsageHandler is UsageFixture {
    /// @notice What a batch says, as its roots were made.
    struct Told {
        uint256[3] charged;
        uint256[3] payouts;
        uint256 total;
    }

    Told[] private told; // by number; the first is none
    uint256[3] private given; // deposits that came in
    uint256[3] private back; // deposits that went out
    uint256[3] private cap; // most that each user has signed
    uint256 private staked;
    uint256 private sunk;
    bool private claiming;
    uint256 private requests;

    constructor() {
        UsageFixture.setUp();
        told.push();
        staked = MIN_STAKE;
        for (uint256 i; i < 3; ++i) {
            (given[i], cap[i]) = (100 ether, 200 ether);
        }
    }

    function setUp() public override {}

    function pass(uint256 time) external {
        vm.warp(block.timestamp + time % (4 days));
    }

    function deposit(uint256 who, uint256 amount) external {
        amount = bound(amount, 1, 60 ether);
        given[who % 3] += amount;
        usage.deposit(GATEWAY, users[who % 3], uint96(amount));
    }

    function raiseCap(uint256 who, uint256 amount) external {
        cap[who % 3] += amount % 100 ether;
    }

    function request(uint256 who, uint256 amount) external {
        address user = users[who % 3];
        amount = bound(amount, 0, usage.depositOf(GATEWAY, user).amount);
        vm.prank(user);
        usage.requestWithdrawal(GATEWAY, uint96(amount));
    }

    function withdraw(uint256 who) external {
        address user = users[who % 3];
        uint64 readyAt = usage.depositOf(GATEWAY, user).readyAt;
        vm.prank(user);
        try usage.withdraw(GATEWAY) returns (uint256 amount) {
            vm.assertTrue(readyAt != 0 && block.timestamp >= readyAt, "withdrawn early");
            back[who % 3] += amount;
        } catch {
            vm.assertTrue(readyAt == 0 || block.timestamp < readyAt, "not paid back");
        }
    }

    function stake(uint256 amount) external {
        amount = bound(amount, 1, 30 ether);
        token.transfer(GATEWAY, amount);
        vm.prank(GATEWAY);
        usage.stake(uint96(amount));
        staked += amount;
    }

    /// @notice Charges beyond the caps are among them, and users without money.
    function settle(uint256[3] calldata more, uint256 first, uint256 second) external {
        if (usage.stakeOf(GATEWAY).amount < MIN_STAKE) return;
        Told memory next = told[usage.booksOf(_series()).last];
        uint256 grown;
        for (uint256 i; i < 3; ++i) {
            uint256 part = more[i] % 40 ether;
            next.charged[i] += part;
            grown += part;
        }
        if (grown == 0) return;
        next.total += grown;
        first = bound(first, 0, grown);
        second = bound(second, 0, grown - first);
        next.payouts[0] += first;
        next.payouts[1] += second;
        next.payouts[2] += grown - first - second;
        while (told.length > usage.booksOf(_series()).last + 1) told.pop(); // what was voided
        told.push(next);
        uint64 number = uint64(told.length - 1);
        _settleRoots(
            number, _tree(users, _list(next.charged))[0], _tree(payees, _list(next.payouts))[0], uint128(next.total)
        );
    }

    function void(uint256 number) external {
        uint64 last = usage.booksOf(_series()).last;
        if (last == 0) return;
        number = bound(number, 1, last);
        uint256 from = uint256(usage.batchOf(_series(), uint64(number)).settledAt) + ACTIVATION;
        vm.prank(GUARDIAN);
        try usage.void(GATEWAY, BOOK, uint64(number)) {
            vm.assertTrue(block.timestamp < from, "an active batch was voided");
        } catch {
            vm.assertTrue(block.timestamp >= from, "a pending batch was not voided");
        }
    }

    /// @notice Collects one user's charge of any batch that is active.
    function collect(uint256 number, uint256 who) external {
        who %= 3;
        number = _anyBatch(number);
        if (number == 0) return;
        uint256[] memory charged = _list(told[number].charged);
        Charge memory charge = Charge(users[who], uint128(charged[who]), uint128(cap[who]), never);
        bytes32[] memory proof = Merkle.prove(_tree(users, charged), _leaf(users[who], charged[who]));
        Charge[] memory one = new Charge[](1);
        one[0] = charge;
        bytes memory signature = _signCap(who + 1, GATEWAY, BOOK, charge);
        uint256 before = usage.collectedFrom(_series(), users[who]);
        uint256 available = usage.depositOf(GATEWAY, users[who]).amount;
        uint256 owed = charged[who] > before ? charged[who] - before : 0;
        try usage.collect(GATEWAY, BOOK, uint64(number), one, signature, proof, new bool[](proof.length)) returns (
            uint256 amount
        ) {
            vm.assertTrue(charged[who] <= cap[who], "above the cap");
            vm.assertEq(amount, owed < available ? owed : available);
        } catch {
            vm.assertTrue(charged[who] > cap[who] || !_active(number), "not collected");
        }
    }

    function claim(uint256 number, uint256 payee, bool leaveOut) external {
        payee %= 3;
        number = _anyBatch(number);
        if (number == 0) return;
        uint256[] memory payouts = _list(told[number].payouts);
        uint256[] memory before = leaveOut || number == 1 ? new uint256[](0) : _list(told[number - 1].payouts);
        uint256 collected = usage.booksOf(_series()).collected;
        uint256 paid = usage.claimed(_series(), payees[payee]);
        uint256 entitled = _entitled(number, payee, collected);
        claiming = true;
        if (collected >= told[number].total) {
            try this.full(number, payouts, payee) returns (uint256 amount) {
                vm.assertEq(paid + amount, entitled);
            } catch {
                vm.assertTrue(entitled <= paid || !_active(number), "a full batch does not pay");
            }
        } else {
            try this.short(number, before, payouts, payee) returns (uint256 amount) {
                vm.assertLe(paid + amount, entitled, "more than its part");
            } catch {}
        }
        claiming = false;
    }

    /// @dev Not by `msg.sender`: the fuzzer sends from this address, too.
    modifier onlyByItself() {
        if (claiming) _;
    }

    function full(uint256 number, uint256[] calldata payouts, uint256 payee) external onlyByItself returns (uint256) {
        return _claim(uint64(number), payouts, payee);
    }

    function short(uint256 number, uint256[] calldata before, uint256[] calldata payouts, uint256 payee)
        external
        onlyByItself
        returns (uint256)
    {
        return _claimShort(uint64(number), before, payouts, payee);
    }

    function slash() external {
        Receipt memory one = _receipt(bytes32(++requests), 5);
        Receipt memory other = _receipt(bytes32(requests), 6);
        bytes memory signatures = bytes.concat(
            _signature(RECEIPT_KEY, usage.receiptDigest(one)), _signature(RECEIPT_KEY, usage.receiptDigest(other))
        );
        (uint256 before, uint256 had) = (usage.stakeOf(GATEWAY).amount, token.balanceOf(GATEWAY));
        address key = vm.addr(RECEIPT_KEY);
        vm.prank(GATEWAY); // its own accuser
        usage.slashReceipts(one, other, [key, key], signatures);
        uint256 lost = before - usage.stakeOf(GATEWAY).amount;
        vm.assertEq(lost, before / 2);
        vm.assertLe((token.balanceOf(GATEWAY) - had) * 10, lost, "a slash gives the gateway more than a tenth");
        staked -= lost;
        sunk += lost - (token.balanceOf(GATEWAY) - had);
        vm.assertEq(token.balanceOf(SINK), sunk);
    }

    function _anyBatch(uint256 number) private view returns (uint256) {
        uint64 last = usage.booksOf(_series()).last;
        return last == 0 ? 0 : bound(number, 1, last);
    }

    function _active(uint256 number) private view returns (bool) {
        return block.timestamp >= uint256(usage.batchOf(_series(), uint64(number)).settledAt) + ACTIVATION;
    }

    function _entitled(uint256 number, uint256 payee, uint256 collected) private view returns (uint256) {
        Told storage batch = told[number];
        Told storage before = told[number - 1];
        if (collected >= batch.total) return batch.payouts[payee];
        if (collected < before.total) return before.payouts[payee];
        uint256 grown = batch.payouts[payee] - before.payouts[payee];
        return before.payouts[payee] + grown * (collected - before.total) / (batch.total - before.total);
    }

    function _list(uint256[3] memory values) private pure returns (uint256[] memory) {
        return _amounts(values[0], values[1], values[2]);
    }

    function checkMoney() external view {
        UsageSettlement.Series memory books = usage.booksOf(_series());
        uint256 collected;
        uint256 paid;
        for (uint256 i; i < 3; ++i) {
            uint256 taken = usage.collectedFrom(_series(), users[i]);
            vm.assertLe(taken, cap[i], "more than the cap was taken");
            vm.assertEq(usage.depositOf(GATEWAY, users[i]).amount, given[i] - back[i] - taken);
            vm.assertEq(token.balanceOf(users[i]), back[i]);
            vm.assertEq(token.balanceOf(payees[i]), usage.claimed(_series(), payees[i]));
            collected += taken;
            paid += token.balanceOf(payees[i]);
        }
        vm.assertEq(books.collected, collected);
        vm.assertEq(books.paid, paid);
        vm.assertLe(paid, collected, "paid <= collected");
        vm.assertLe(collected, told[books.last].total, "collected <= charged");
        vm.assertEq(usage.stakeOf(GATEWAY).amount, staked);
        _checkHoldings();
    }

    /// @dev Whatever was paid already, the pot has what everybody may still claim, less a wei an account.
    function checkSolvency() external view {
        UsageSettlement.Series memory books = usage.booksOf(_series());
        uint256 owed;
        for (uint64 number = 1; number <= books.last; ++number) {
            if (books.collected < told[number - 1].total) break;
            owed = 0;
            for (uint256 i; i < 3; ++i) {
                uint256 entitled = _entitled(number, i, books.collected);
                uint256 paid = usage.claimed(_series(), payees[i]);
                if (entitled > paid) owed += entitled - paid;
            }
        }
        vm.assertLe(owed, books.collected - books.paid, "the pot does not hold what it owes");
    }
}

contract UsageInvariantsTest is Base {
    UsageHandler private handler;

    function setUp() public {
        handler = new UsageHandler();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_UsageMoneyIsConserved() public view {
        handler.checkMoney();
    }

    function invariant_PotHoldsWhatItOwes() public view {
        handler.checkSolvency();
    }
}
