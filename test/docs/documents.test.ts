// Every code block of the documents is tested, or says why not; and those that need no KVM are tested here.

import { describe, expect, test } from '@jest/globals';
import { testDocuments } from '../support/documents/document-tests.js';
import { documentPaths, planDocument } from '../support/documents/sessions.js';

describe('the code blocks of the documents', () => {
  test.each(documentPaths())('%s: each has a comment that says how it is tested, or why it is not', (path) => {
    expect(planDocument(path).problems).toEqual([]);
  });
});

testDocuments('unit', describe);
