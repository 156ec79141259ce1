// The console's pane: the lines of a Screen as elements, a frame at a time. Browser.
//
// Text is only ever set as text (`textContent`), so whatever a guest prints is shown and does nothing.

import type { ConsolePiece } from '../messages.js';
import { Screen } from './screen.js';

/** Within so many pixels of the end, the pane follows what is printed. */
const FOLLOW_WITHIN = 24;

/** Shows a console. */
export class ConsoleView {
  private readonly pane: HTMLElement;
  private readonly screen = new Screen();
  private position = 0;
  private planned = false;

  constructor(pane: HTMLElement) {
    this.pane = pane;
  }

  /** Forgets everything: what comes next is of another VM. */
  clear(): void {
    this.screen.clear();
    this.position = 0;
    this.drawSoon();
  }

  add({ from, to, bytes }: ConsolePiece): void {
    if (from > this.position) this.screen.note(`${from - this.position} bytes of output are not shown`);
    this.screen.write(Uint8Array.from(atob(bytes), (character) => character.charCodeAt(0)));
    this.position = to;
    this.drawSoon();
  }

  private drawSoon(): void {
    if (this.planned) return;
    this.planned = true;
    requestAnimationFrame(() => {
      this.planned = false;
      this.draw();
    });
  }

  private draw(): void {
    const { pane, screen } = this;
    const follows = pane.scrollHeight - pane.scrollTop - pane.clientHeight < FOLLOW_WITHIN;
    const { dropped, first } = screen.takeChanges();
    for (let index = 0; index < dropped; index++) pane.firstElementChild?.remove();
    while (pane.childElementCount > first) pane.lastElementChild?.remove();
    const rows = screen.lines.slice(pane.childElementCount).map((line) => {
      const row = document.createElement('div');
      row.textContent = line;
      return row;
    });
    pane.append(...rows);
    if (follows) pane.scrollTop = pane.scrollHeight;
  }
}
