// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title Token in which pools, stakes and rewards are paid
/// @notice ERC-20 with permit. What is minted over the token's whole lifetime never exceeds `CAP`: a burn re-opens no room.
/// Nobody can change the code, and the one minter is chosen once.
contract FlockToken is ERC20, ERC20Permit {
    /// @notice The most that can ever be minted, in wei.
    uint256 public constant CAP = 1e9 ether;

    /// @notice Account that may choose the minter, once.
    address public immutable deployer;

    /// @notice The only account that mints; zero until it is chosen.
    address public minter;

    /// @notice Wei minted so far, the initial supply included; it never falls.
    uint256 public totalMinted;

    /// @notice The minter was chosen, for good.
    // slither-disable-next-line unindexed-event-address: there is one
    event MinterSet(address minter);

    /// @notice The caller may not do this.
    error Unauthorized(address caller);
    /// @notice The minter is chosen already.
    error MinterAlreadySet(address minter);
    /// @notice A mint would go over `CAP`.
    error CapExceeded(uint256 requested, uint256 available);

    /// @notice Mints the initial supply to the deployer.
    /// @param initialSupply Wei, at most `CAP`.
    constructor(uint256 initialSupply) ERC20("FLOCK Ray", "FLOCKR") ERC20Permit("FLOCK Ray") {
        deployer = msg.sender;
        _mintWithinCap(msg.sender, initialSupply);
    }

    /// @notice Chooses the minter; only the deployer, only once.
    function setMinter(address minter_) external {
        if (msg.sender != deployer) revert Unauthorized(msg.sender);
        if (minter != address(0)) revert MinterAlreadySet(minter);
        // slither-disable-next-line missing-zero-check: zero leaves the choice open
        minter = minter_;
        emit MinterSet(minter_);
    }

    /// @notice Mints `amount` wei to `to`; only the minter.
    function mint(address to, uint256 amount) external {
        if (msg.sender != minter) revert Unauthorized(msg.sender);
        _mintWithinCap(to, amount);
    }

    /// @notice Destroys `amount` wei of the caller's.
    function burn(uint256 amount) external {
        _burn(msg.sender, amount);
    }

    function _mintWithinCap(address to, uint256 amount) private {
        uint256 available = CAP - totalMinted;
        if (amount > available) revert CapExceeded(amount, available);
        totalMinted += amount;
        _mint(to, amount);
    }
}
