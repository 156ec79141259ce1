// The commands and samples of the documents that run the built-in guest.

import { describeKvm } from '../../support/kvm.js';
import { testDocuments } from '../../support/documents/document-tests.js';

testDocuments('kvm', describeKvm);
