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
    address internal constant CREATOR = address(0xC0);
    address internal constant SINK = address(0x51);
    address internal constant BOB = address(uint160(uint256(keccak256("bob"))));
    uint256 internal constant EPOCH = 1 days;
    uint32 internal constant UNBONDING = 7;
    uint32 internal constant DELAY = 8;
    uint96 internal constant MINIMUM = 1e15;

    PlainToken internal token;
    StakeVault internal vault;
    uint64 internal delay = 6 hours;

    function setUp() public virtual {
        token = _newToken();
        vault = new StakeVault(token, address(this), address(this), _settings());
        vm.warp(20_000 * EPOCH);
        _fund(address(this), 1e9 ether);
        _fund(OPERATOR, 1e6 ether);
        _fund(ALICE, 1e6 ether);
        _fund(BOB, 1e6 ether);
        _accept(OPERATOR);
        _serve(OPERATOR);
        _skip(DELAY);
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

    function _serve(address operator) internal {
        vm.prank(operator);
        vault.addCreator(CREATOR);
    }

    function _accept(address operator) internal {
        vm.prank(operator);
        vault.setAcceptance(true);
    }

    /// @dev The vault asks its distributor.
    function activationDelay() external view returns (uint64) {
        return delay;
    }

    /// @dev Locks for a task of the creator that the operator's pool serves.
    function _lock(bytes32 task, uint256 amount) internal returns (bool) {
        return vault.lock(task, OPERATOR, CREATOR, amount);
    }

    function _lockable() internal view returns (uint256) {
        return vault.lockable(OPERATOR, CREATOR);
    }

    /// @dev What the distributor does: it sends the tokens, then it tells.
    function _distribute(address operator, uint256 amount) internal {
        token.transfer(address(vault), amount);
        vault.distribute(operator, amount);
    }

    /// @dev What the registry does: it slashes, then it has everything paid out.
    function _slash(bytes32 task, uint256 amount) internal returns (uint256 taken) {
        (uint256 own, uint256 delegated,) = vault.slash(task, OPERATOR, amount);
        vault.payOut(address(this), own);
        vault.payOutRest(SINK);
        return own + delegated;
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
