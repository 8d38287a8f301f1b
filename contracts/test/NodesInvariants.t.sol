// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {MembersHandler} from "./MembersInvariants.t.sol";

/// @notice Members and nodes of contests, in any order: the slots are the members' alone, each stake answers as long as it
/// must, and nobody has two roles.
contract NodesInvariantsTest is Base {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    MembersHandler private handler;

    function setUp() public {
        handler = new MembersHandler();
        handler.setUp();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory selectors = new bytes4[](13);
        selectors[0] = MembersHandler.settle.selector;
        selectors[1] = MembersHandler.settle.selector; // thrice as likely
        selectors[2] = MembersHandler.settle.selector;
        selectors[3] = MembersHandler.enter.selector;
        selectors[4] = MembersHandler.enter.selector;
        selectors[5] = MembersHandler.resignNode.selector;
        selectors[6] = MembersHandler.releaseNode.selector;
        selectors[7] = MembersHandler.releaseNode.selector;
        selectors[8] = MembersHandler.comeAgain.selector;
        selectors[9] = MembersHandler.join.selector;
        selectors[10] = MembersHandler.resign.selector;
        selectors[11] = MembersHandler.release.selector;
        selectors[12] = MembersHandler.abandon.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), selectors);
    }

    function invariant_Nodes() public view {
        handler.checkSlots();
        handler.checkChanges();
        handler.checkStakes();
        vm.assertEq(handler.unexpected(), 0);
    }
}
