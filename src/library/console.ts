/**
 * The guest's consoles: what it prints, and typing at it.
 *
 * @module consoles
 */

export { ConsoleError, type ConsoleErrorCode } from '../vmm/consoles/console-error.js';
export type { WaitOptions } from '../vmm/consoles/console-reader.js';
export type { ConsoleListener, VmConsole } from '../vmm/consoles/guest-console.js';
export type { ConsoleMatch } from '../vmm/consoles/output-search.js';
