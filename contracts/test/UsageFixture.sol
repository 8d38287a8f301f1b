// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Merkle} from "./Merkle.sol";
import {FlockToken} from "../src/FlockToken.sol";
import {UsageSettings} from "../src/GatewayStakes.sol";
import {UsageSettlement} from "../src/UsageSettlement.sol";
import {Charge, Receipt} from "../src/libraries/Usage.sol";

/// @notice A gateway with stake, three users with deposits, and three accounts that are paid.
abstract contract UsageFixture is Base {
    uint64 internal constant ACTIVATION = 1 days;
    uint64 internal constant RESPONSE = 2 days;
    uint64 internal constant WITHDRAWAL = 7 days;
    uint96 internal constant MIN_STAKE = 100 ether;
    uint128 internal constant CAP = 1_000 ether;
    bytes32 internal constant BOOK = keccak256("price book");
    address internal constant SINK = address(0xdead);
    address internal constant GUARDIAN = address(0x6A);
    address internal constant STRANGER = address(0x50);
    uint256 internal constant RECEIPT_KEY = 101;
    address internal immutable GATEWAY = vm.addr(100);
    uint256 internal constant USERS = 3;

    FlockToken internal token;
    UsageSettlement internal usage;
    address[] internal users; // user i has the key i + 1
    address[] internal payees = [address(0xB0), address(0xB1), address(0xB2)];
    uint64 internal never = type(uint64).max;

    function setUp() public virtual {
        vm.warp(1000 days);
        token = new FlockToken(1e9 ether);
        usage = new UsageSettlement(token, _settings());
        token.approve(address(usage), type(uint256).max);
        token.transfer(GATEWAY, 1_000 ether);
        vm.startPrank(GATEWAY);
        token.approve(address(usage), type(uint256).max);
        usage.stake(MIN_STAKE);
        usage.setReceiptKey(vm.addr(RECEIPT_KEY), true);
        vm.stopPrank();
        for (uint256 i; i < USERS; ++i) {
            users.push(vm.addr(i + 1));
            usage.deposit(GATEWAY, users[i], 100 ether);
        }
    }

    function _settings() internal pure returns (UsageSettings memory) {
        return UsageSettings(SINK, GUARDIAN, MIN_STAKE, ACTIVATION, RESPONSE, WITHDRAWAL);
    }

    function _series() internal view returns (bytes32) {
        return usage.seriesOf(GATEWAY, BOOK);
    }

    /// @dev A second writing of the leaves.
    function _leaf(address account, uint256 cumulative) internal view returns (bytes32) {
        bytes32 series = keccak256(abi.encode(keccak256("flock_ray/usage/1"), GATEWAY, BOOK));
        return
            keccak256(bytes.concat(keccak256(abi.encode(block.chainid, address(usage), series, account, cumulative))));
    }

    function _tree(address[] memory accounts, uint256[] memory amounts) internal view returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](accounts.length);
        for (uint256 i; i < accounts.length; ++i) {
            leaves[i] = _leaf(accounts[i], amounts[i]);
        }
        return Merkle.build(leaves);
    }

    function _amounts(uint256 one, uint256 two, uint256 three) internal pure returns (uint256[] memory amounts) {
        amounts = new uint256[](3);
        (amounts[0], amounts[1], amounts[2]) = (one, two, three);
    }

    function _sum(uint256[] memory amounts) internal pure returns (uint128 sum) {
        for (uint256 i; i < amounts.length; ++i) {
            sum += uint128(amounts[i]);
        }
    }

    /// @dev The next batch, in which users were charged and payees are to get these amounts, all together.
    function _settle(uint256[] memory charged, uint256[] memory payouts) internal returns (uint64 number) {
        number = usage.booksOf(_series()).last + 1;
        _settleRoots(number, _tree(users, charged)[0], _tree(payees, payouts)[0], _sum(charged));
    }

    function _settleRoots(uint64 number, bytes32 charges, bytes32 payouts, uint128 total) internal {
        vm.prank(GATEWAY);
        usage.settleBatch(BOOK, number, charges, payouts, total);
    }

    function _cap(address account, uint256 cumulative) internal view returns (Charge memory) {
        return Charge(account, uint128(cumulative), CAP, never);
    }

    function _signCap(uint256 key, address gateway, bytes32 book, Charge memory charge)
        internal
        view
        returns (bytes memory)
    {
        return _signature(key, usage.capDigest(gateway, book, charge));
    }

    function _signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 vs) = vm.signCompact(key, digest);
        return bytes.concat(r, vs);
    }

    /// @dev Collects from all users what a batch charges them.
    function _collect(uint64 number, uint256[] memory charged) internal returns (uint256) {
        bytes32[] memory nodes = _tree(users, charged);
        (Charge[] memory ordered, bytes memory signatures, uint256[] memory wanted) = _ordered(nodes, charged);
        (bytes32[] memory proof, bool[] memory flags) = Merkle.proveMany(nodes, wanted);
        return usage.collect(GATEWAY, BOOK, number, ordered, signatures, proof, flags);
    }

    /// @dev All users' charges in the order of their leaves.
    function _ordered(bytes32[] memory nodes, uint256[] memory charged)
        internal
        view
        returns (Charge[] memory ordered, bytes memory signatures, uint256[] memory wanted)
    {
        uint256 count = users.length;
        (ordered, wanted) = (new Charge[](count), new uint256[](count));
        for (uint256 i; i < count; ++i) {
            wanted[i] = nodes.length - 1 - i;
            for (uint256 user; user < count; ++user) {
                if (nodes[wanted[i]] != _leaf(users[user], charged[user])) continue;
                ordered[i] = _cap(users[user], charged[user]);
                signatures = bytes.concat(signatures, _signCap(user + 1, GATEWAY, BOOK, ordered[i]));
            }
        }
    }

    /// @dev Collects from one user.
    function _collectOne(
        uint64 number,
        uint256[] memory charged,
        uint256 user,
        Charge memory cap,
        bytes memory signature
    ) internal returns (uint256) {
        bytes32[] memory proof = Merkle.prove(_tree(users, charged), _leaf(users[user], charged[user]));
        Charge[] memory one = new Charge[](1);
        one[0] = cap;
        return usage.collect(GATEWAY, BOOK, number, one, signature, proof, new bool[](proof.length));
    }

    function _payout(uint256[] memory payouts, uint256 payee)
        internal
        view
        returns (UsageSettlement.Payout memory payout)
    {
        payout.cumulative = payouts[payee];
        payout.proof = Merkle.prove(_tree(payees, payouts), _leaf(payees[payee], payouts[payee]));
    }

    function _claim(uint64 number, uint256[] memory payouts, uint256 payee) internal returns (uint256) {
        return usage.claim(GATEWAY, BOOK, number, payees[payee], _payout(payouts, payee));
    }

    function _claimShort(uint64 number, uint256[] memory before, uint256[] memory payouts, uint256 payee)
        internal
        returns (uint256)
    {
        UsageSettlement.Payout memory earlier;
        if (before.length != 0) earlier = _payout(before, payee);
        return usage.claimShort(GATEWAY, BOOK, number, payees[payee], earlier, _payout(payouts, payee));
    }

    function _activate() internal {
        vm.warp(block.timestamp + ACTIVATION);
    }

    function _receipt(bytes32 request, uint128 cost) internal view returns (Receipt memory) {
        return Receipt(GATEWAY, request, users[0], "model", "prompt", "output", 1_000, 200, BOOK, cost);
    }

    /// @dev What the contract holds is deposits, stake, and what was collected and not paid.
    function _checkHoldings() internal view {
        uint256 owed = usage.stakeOf(GATEWAY).amount;
        for (uint256 i; i < users.length; ++i) {
            owed += usage.depositOf(GATEWAY, users[i]).amount;
        }
        UsageSettlement.Series memory books = usage.booksOf(_series());
        vm.assertEq(token.balanceOf(address(usage)), owed + books.collected - books.paid);
    }
}
