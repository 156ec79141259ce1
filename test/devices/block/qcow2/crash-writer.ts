// A process that writes to an image until it is killed: node crash-writer.js PATH SEED. Before each operation it says its
// number, and `flushed N` when a flush has ended.

import { writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { Random } from '../../../support/random.js';
import { nextOperation, perform } from './crash-model.js';
import { Workplace } from './workplace.js';

const [path, seed] = process.argv.slice(2);
const random = new Random(Number(seed));
const disk = new Workplace(dirname(path)).openDisk(path);
for (let index = 0; ; index++) {
  const operation = nextOperation(random, disk.size, index);
  writeSync(1, `${index}\n`);
  perform(disk, operation);
  if (operation.type === 'flush') writeSync(1, `flushed ${index}\n`);
}
