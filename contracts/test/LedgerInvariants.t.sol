// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Merkle} from "./Merkle.sol";
import {EmissionController, Schedule} from "../src/EmissionController.sol";
import {FlockToken} from "../src/FlockToken.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";

/// @notice Acts on the token, its minter and a distributor, of which it is registry and settlement itself; keeps books.
contract LedgerHandler is Base {
    uint256 private constant EPOCHS = 400;
    uint64 private constant DELAY = 1 days;
    bytes32 private constant TASK = keccak256("task");

    FlockToken private token;
    EmissionController private emission;
    RewardDistributor private distributor;

    address[3] private _accounts = [address(0xA1), address(0xA2), address(0xA3)];
    uint256 private _minted;
    uint256 private _burnt;
    mapping(uint256 day => bool) private _released;

    uint256 private _left = EPOCHS;
    uint256 private _deposited;
    uint256 private _budgets;
    uint256[3] private _earned;
    uint256[3] private _proven; // the most under a root that paid
    mapping(bytes32 root => uint256[3]) private _under;

    constructor() {
        vm.warp(1000 days);
        token = new FlockToken(1e26);
        (_minted, _deposited) = (1e26, 1e22);
        // In ten days as much as the cap leaves; then the cap decides.
        emission = new EmissionController(token, Schedule(address(this), 1e26, 100, 1, uint64(block.timestamp), 1));
        token.setMinter(address(emission));
        distributor =
            new RewardDistributor(token, address(this), address(this), StakeVault(address(0)), DELAY, address(this));
        token.transfer(address(distributor), _deposited);
        distributor.deposit(TASK, uint128(_deposited), uint128(_deposited / 4));
    }

    function release(uint256 day) external {
        day %= 40;
        uint256 amount = emission.emission(day);
        bool due = !_released[day] && block.timestamp >= (1000 + day) * 1 days;
        try emission.release(day) {
            vm.assertTrue(due, "released twice, or early");
            _released[day] = true;
            _minted = _minted + amount < 1e27 ? _minted + amount : 1e27;
        } catch {
            vm.assertTrue(!due, "a day that was due is refused");
        }
    }

    function burn(uint256 amount) external {
        amount = bound(amount, 0, token.balanceOf(address(this)));
        token.burn(amount);
        _burnt += amount;
    }

    function pass(uint256 time) external {
        vm.warp(block.timestamp + time % 2 days);
    }

    /// @notice Slashed stake flows into the pool.
    function deposit(uint256 amount) external {
        amount = bound(amount, 0, token.balanceOf(address(this)) < 1e18 ? token.balanceOf(address(this)) : 1e18);
        token.transfer(address(distributor), amount);
        distributor.deposit(TASK, uint128(amount), 0);
        _deposited += amount;
    }

    /// @notice An epoch's rewards, within its budget or a wei above it.
    function commit(uint256 rewards, uint256 who, bool greedy) external {
        if (_left == 0) return;
        uint256 budget = distributor.budget(TASK, _left);
        rewards = greedy ? budget + 1 : bound(rewards, 0, budget);
        uint256[3] memory earned = _earned;
        earned[who % 3] += rewards;
        bytes32 root = _tree(earned)[0];
        try distributor.commit(TASK, root, uint128(earned[0] + earned[1] + earned[2]), _left) {
            vm.assertTrue(!greedy, "over budget");
            (_earned, _under[root]) = (earned, earned);
            _budgets += budget;
            --_left;
        } catch {
            vm.assertTrue(greedy, "within budget");
        }
    }

    /// @notice Pays what the active root says, however often or seldom the account claimed before.
    function claim(uint256 who, uint256 extra) external {
        who %= 3;
        distributor.promote(TASK);
        uint256[3] memory earned = _under[distributor.accountOf(TASK).root];
        uint256 cumulative = earned[who];
        bytes32[] memory nodes = _tree(earned);
        bytes32[] memory proof = Merkle.prove(nodes, _leaf(_accounts[who], cumulative));
        extra = extra % 3 == 0 ? bound(extra, 1, 1e22) : 0;
        try distributor.claim(TASK, _accounts[who], cumulative + extra, proof) {
            vm.assertTrue(extra == 0 && cumulative > _proven[who], "paid for nothing");
            _proven[who] = cumulative;
        } catch {
            vm.assertTrue(extra != 0 || cumulative == _proven[who] || nodes[0] != _root(), "not paid");
        }
    }

    function checkMinted() external view {
        vm.assertEq(token.totalMinted(), _minted, "minted what the schedule gave");
        vm.assertLe(_minted, 1e27, "never above the cap");
        vm.assertEq(token.totalSupply(), _minted - _burnt, "a burn opens no room");
    }

    function checkClaims() external view {
        uint256 paid;
        for (uint256 i; i < 3; ++i) {
            uint256 balance = token.balanceOf(_accounts[i]);
            vm.assertEq(balance, _proven[i], "claims together pay what the last one says");
            vm.assertEq(balance, distributor.claimed(TASK, _accounts[i]));
            vm.assertLe(balance, _earned[i], "nobody gets more than it earned");
            paid += balance;
        }
        RewardDistributor.Account memory money = distributor.accountOf(TASK);
        vm.assertEq(money.claimed, paid);
        vm.assertLe(money.claimed, money.committed, "claimed <= committed");
        vm.assertLe(money.committed, _budgets, "committed <= the budgets' sum");
        vm.assertLe(money.committed, _deposited - (_left == 0 ? 0 : uint256(money.reserve)), "<= deposited");
        vm.assertEq(token.balanceOf(address(distributor)), _deposited - paid);
    }

    function _root() private view returns (bytes32) {
        return distributor.accountOf(TASK).root;
    }

    function _tree(uint256[3] memory earned) private view returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](3);
        for (uint256 i; i < 3; ++i) {
            leaves[i] = _leaf(_accounts[i], earned[i]);
        }
        return Merkle.build(leaves);
    }

    function _leaf(address account, uint256 cumulative) private view returns (bytes32) {
        bytes memory words = abi.encode(block.chainid, address(distributor), TASK, account, cumulative);
        return keccak256(bytes.concat(keccak256(words)));
    }
}

contract LedgerInvariantsTest is Base {
    LedgerHandler private handler;

    function setUp() public {
        handler = new LedgerHandler();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_MintedForEver() public view {
        handler.checkMinted();
    }

    function invariant_ClaimsAreCumulative() public view {
        handler.checkClaims();
    }
}
