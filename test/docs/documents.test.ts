// Every code block of the documents is tested, or says why not; and those that need no KVM are tested here.

import { describe, expect, test } from '@jest/globals';
import { testDocuments } from '../support/documents/document-tests.js';
import { documentPaths, planDocument } from '../support/documents/sessions.js';

describe('the code blocks of the documents', () => {
  test.each(documentPaths())('%s: each has a comment that says how it is tested, or why it is not', (path) => {
    expect(planDocument(path).problems).toEqual([]);
  });
});

test('few blocks are not tested, and each says why in some words', () => {
  const untested = documentPaths().flatMap((path) => planDocument(path).untested);
  expect(untested.filter(({ reason }) => reason.split(' ').length < 3)).toEqual([]);
  // Whoever adds one more is to think about it twice.
  expect(untested.length).toBeLessThanOrEqual(12);
});

testDocuments('unit', describe);
