// The tables of docs/api.md are those of the source.

import { describe, expect, test } from '@jest/globals';
import { API_ROOT, ENDPOINTS } from '../../src/api/endpoints.js';
import { CTL_COMMANDS } from '../../src/cli/ctl/commands.js';
import { CTL_EXIT_CODES, usageOf } from '../../src/cli/ctl/run.js';
import { readDocument, tableRows } from './tables.js';

const document = readDocument('docs/api.md');

describe('docs/api.md', () => {
  test('has every endpoint, with its method and what it does', () => {
    const expected = ENDPOINTS.map(({ name, method, summary }) => [`\`${name}\``, method, summary]);
    expect(tableRows(document, 'endpoint')).toEqual(expected);
    expect(document).toContain(`below \`${API_ROOT}\``);
  });

  test('has every command of tsvmm ctl', () => {
    const expected = CTL_COMMANDS.map((command) => [`\`${usageOf(command)}\``, command.help]);
    expect(tableRows(document, 'command')).toEqual(expected);
  });

  test('has its exit codes', () => {
    expect(tableRows(document, 'ctl status').map(([code, meaning]) => [Number(code), meaning])).toEqual(CTL_EXIT_CODES);
  });
});
