// The commands and samples of the documents that need a Linux guest.

import { describeKvm } from '../../support/kvm.js';
import { testDocuments } from '../../support/documents/document-tests.js';

testDocuments('linux', describeKvm);
