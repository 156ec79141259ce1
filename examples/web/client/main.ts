// The page's program: follows the server's events, shows them, and asks for what the buttons say. Browser.

import type { Sample, ServerEvents, Status, Transfer, TransferKind, TransferRequest, Typed } from '../messages.js';
import { ConsoleView } from './console-view.js';
import { formatBytes, formatRate, formatSeconds } from './format.js';
import { Plot, rateBetween } from './plot.js';

const KIND_NAMES: Readonly<Record<TransferKind, string>> = {
  'from-guest': 'From guest',
  'to-guest': 'To guest',
  echo: 'Echo',
};
const STATE_NAMES = { running: 'Running', paused: 'Paused', ended: 'Ended' } as const;

function element<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no #${id}`);
  return found;
}

const state = element('state', HTMLElement);
const notice = element('notice', HTMLElement);
const pauseButton = element('pause', HTMLButtonElement);
const stopButton = element('stop', HTMLButtonElement);
const typeForm = element('type', HTMLFormElement);
const typed = element('typed', HTMLInputElement);
const interruptButton = element('interrupt', HTMLButtonElement);
const amount = element('amount', HTMLSelectElement);
const transferList = element('transfers', HTMLUListElement);
const guestFrame = element('guest-page', HTMLIFrameElement);
const consoleView = new ConsoleView(element('console', HTMLElement));
const plot = new Plot(element('plot', HTMLCanvasElement));
const transferButtons = [...document.querySelectorAll<HTMLButtonElement>('button[data-transfer]')];

let status: Status | undefined;
let connected = false;
let lastSample: Sample | undefined;

// ---- What the server says

function follow<Name extends keyof ServerEvents>(name: Name, take: (data: ServerEvents[Name]) => void): void {
  events.addEventListener(name, ({ data }: MessageEvent<string>) => {
    take(JSON.parse(data) as ServerEvents[Name]);
  });
}

const events = new EventSource('/events');
events.addEventListener('open', () => {
  connected = true;
  showStatus();
});
// The browser connects again by itself, and says where it was; a server that is gone for good is tried for ever.
events.addEventListener('error', () => {
  connected = false;
  showStatus();
});
follow('begin', ({ afresh }) => {
  if (!afresh) return;
  consoleView.clear();
  plot.clear();
  lastSample = undefined;
});
follow('status', (next) => {
  const before = status?.state;
  status = next;
  showStatus();
  // What it shows now may be that the guest was paused.
  if (before === 'paused' && next.state === 'running') reloadGuestPage();
});
follow('console', (piece) => consoleView.add(piece));
follow('samples', (samples) => {
  for (const sample of samples) {
    if (lastSample !== undefined) plot.add(rateBetween(lastSample, sample));
    const before = lastSample;
    lastSample = sample;
    showSample(sample, before);
  }
});

// ---- Showing it

function setText(id: string, text: string): void {
  const target = element(id, HTMLElement);
  if (target.textContent !== text) target.textContent = text;
}

/** The exact number is the element's value; people get a short form. */
function setBytes(id: string, bytes: number): void {
  element(id, HTMLDataElement).value = String(bytes);
  setText(id, formatBytes(bytes));
}

function showStatus(): void {
  if (status === undefined) return;
  const alive = connected && status.state !== 'ended';
  state.dataset['state'] = connected ? status.state : 'lost';
  setText('state', connected ? STATE_NAMES[status.state] : 'Disconnected');
  setText('memory', formatBytes(status.memory));
  setText('cid', String(status.cid));
  const paused = status.state === 'paused';
  pauseButton.textContent = paused ? 'Resume' : 'Pause';
  for (const button of [pauseButton, stopButton, interruptButton, typed, ...transferButtons]) button.disabled = !alive;
  if (!connected) say('The server does not answer. Trying again …');
  else if (status.state === 'ended') say(`The VM has ended: ${status.end ?? 'nobody knows why'}.`);
  else if (paused) say('The VM is paused: what you type waits until it goes on.');
  else say('');
  transferList.replaceChildren(...status.transfers.map(describeTransfer));
}

function say(text: string): void {
  setText('notice', text);
  notice.hidden = text === '';
}

function showSample(sample: Sample, before: Sample | undefined): void {
  const rate = before === undefined ? undefined : rateBetween(before, sample);
  setText('from-rate', formatRate(rate?.fromGuest ?? 0));
  setText('to-rate', formatRate(rate?.toGuest ?? 0));
  setBytes('from-total', sample.fromGuest);
  setBytes('to-total', sample.toGuest);
  setText('connections', sample.connections === null ? '–' : String(sample.connections));
}

function describeTransfer({ id, kind, bytes, done, elapsed, state, problem }: Transfer): HTMLLIElement {
  const item = document.createElement('li');
  item.dataset['state'] = state;
  const name = document.createElement('span');
  name.textContent = `${KIND_NAMES[kind]}, ${formatBytes(bytes)}`;
  const progress = document.createElement('progress');
  progress.max = bytes;
  progress.value = done;
  progress.ariaLabel = name.textContent;
  const result = document.createElement('span');
  result.className = 'result';
  const rate = formatRate((done * 1000) / Math.max(1, elapsed));
  if (state === 'running') result.textContent = rate;
  else if (state === 'done') result.textContent = `${formatSeconds(elapsed)}, ${rate}`;
  else result.textContent = state === 'stopped' ? 'stopped' : `failed: ${problem ?? 'nobody knows why'}`;
  item.append(name, progress, result);
  if (state === 'running') {
    const stop = document.createElement('button');
    stop.type = 'button';
    stop.dataset['stop'] = String(id);
    stop.textContent = 'Stop';
    item.append(stop);
  }
  return item;
}

function reloadGuestPage(): void {
  // Not `contentWindow.location`: the page in there is of another origin.
  guestFrame.src = '/guest/';
}

// ---- What is asked for

/** Sends a request; what goes wrong is said on the page. */
async function ask(path: string, body: object = {}): Promise<void> {
  try {
    const response = await fetch(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    if (!response.ok) say(`That did not work: ${(await response.text()).trim()}.`);
  } catch {
    say('The server does not answer.');
  }
}

typeForm.addEventListener('submit', (event) => {
  event.preventDefault();
  void ask('/api/console', { text: `${typed.value}\r` } satisfies Typed);
  typed.value = '';
});
interruptButton.addEventListener('click', () => void ask('/api/console', { text: '\x03' } satisfies Typed));
pauseButton.addEventListener('click', () => void ask(status?.state === 'paused' ? '/api/resume' : '/api/pause'));
stopButton.addEventListener('click', () => void ask('/api/stop'));
element('reload', HTMLButtonElement).addEventListener('click', reloadGuestPage);
for (const button of transferButtons) {
  button.addEventListener('click', () => {
    const kind = button.dataset['transfer'] as TransferKind;
    void ask('/api/transfers', { kind, bytes: Number(amount.value) } satisfies TransferRequest);
  });
}
// The list is made anew while a transfer runs, so it is the list that listens; on pressing, for a click may never come.
transferList.addEventListener('pointerdown', stopTransfer);
transferList.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' || event.key === ' ') stopTransfer(event);
});

function stopTransfer({ target }: Event): void {
  if (!(target instanceof HTMLButtonElement) || target.dataset['stop'] === undefined) return;
  void ask('/api/transfers/stop', { id: Number(target.dataset['stop']) });
}
