// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Base} from "./Base.sol";
import {StakeVault} from "../src/StakeVault.sol";

/// @notice A plain token that the test mints.
contract PlainToken is ERC20("Plain", "PLAIN") {
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @notice A vault whose registry and distributor the test is, with an operator, delegators and two tasks.
abstract contract StakeVaultFixture is Base {
    bytes32 internal constant TASK = keccak256("task");
    bytes32 internal constant OTHER_TASK = keccak256("other task");
    address internal constant OPERATOR = address(uint160(uint256(keccak256("operator"))));
    address internal constant ALICE = address(uint160(uint256(keccak256("alice"))));
    address internal constant BOB = address(uint160(uint256(keccak256("bob"))));
    uint256 internal constant EPOCH = 1 days;
    uint32 internal constant UNBONDING = 7;
    uint32 internal constant DELAY = 8;
    uint96 internal constant MINIMUM = 1e15;

    PlainToken internal token;
    StakeVault internal vault;

    function setUp() public virtual {
        token = _newToken();
        vault = new StakeVault(token, address(this), address(this), _settings());
        vm.warp(20_000 * EPOCH);
        _fund(address(this), 1e9 ether);
        _fund(OPERATOR, 1e6 ether);
        _fund(ALICE, 1e6 ether);
        _fund(BOB, 1e6 ether);
        _accept(OPERATOR);
    }

    function _newToken() internal virtual returns (PlainToken) {
        return new PlainToken();
    }

    function _settings() internal pure returns (StakeVault.Settings memory) {
        return StakeVault.Settings(uint32(EPOCH), UNBONDING, DELAY, MINIMUM);
    }

    function _fund(address account, uint256 amount) internal {
        token.mint(account, amount);
        vm.prank(account);
        token.approve(address(vault), type(uint256).max);
    }

    function _accept(address operator) internal {
        vm.prank(operator);
        vault.setAcceptance(true);
    }

    /// @dev What the distributor does: it sends the tokens, then it tells.
    function _distribute(address operator, uint256 amount) internal {
        token.transfer(address(vault), amount);
        vault.distribute(operator, amount);
    }

    /// @dev What the registry does: it slashes, then it has everything paid out.
    function _slash(bytes32 task, uint256 amount) internal returns (uint256 taken) {
        taken = vault.slash(task, OPERATOR, amount);
        vault.payOut(address(this), taken);
    }

    function _nextEpoch() internal {
        _skip(1);
    }

    function _skip(uint256 epochs) internal {
        vm.warp(block.timestamp + epochs * EPOCH);
    }

    function _stake(uint256 amount) internal {
        vm.prank(OPERATOR);
        vault.stake(amount);
    }

    function _unstake(uint256 amount) internal returns (uint32 epoch) {
        vm.prank(OPERATOR);
        vault.unstake(amount);
        return vault.currentEpoch();
    }

    function _delegate(address account, uint256 amount) internal returns (uint256 shares) {
        vm.prank(account);
        return vault.delegate(OPERATOR, amount);
    }

    function _undelegate(address account, uint256 shares) internal returns (uint32 epoch) {
        vm.prank(account);
        vault.undelegate(OPERATOR, shares);
        return vault.currentEpoch();
    }

    function _withdraw(address account, uint32 epoch) internal returns (uint256) {
        vm.prank(account);
        return vault.withdraw(OPERATOR, epoch);
    }

    function _claim(address account) internal returns (uint256) {
        vm.prank(account);
        return vault.claim(OPERATOR);
    }

    function _pending(address account) internal view returns (uint256) {
        return vault.pendingRewards(OPERATOR, account);
    }

    function _shares(address account) internal view returns (uint256) {
        return vault.delegation(OPERATOR, account).shares;
    }

    function _worth(address account) internal view returns (uint256) {
        return vault.delegation(OPERATOR, account).assets;
    }

    /// @dev Rewards are rounded down, by less than a wei in each division.
    function _earned(uint256 got, uint256 exact) internal pure {
        vm.assertLe(got, exact, "more than earned");
        vm.assertLe(exact, got + 4, "more than dust is missing");
    }
}
