// SPDX-License-Identifier: Apache-2.0
// What this guest calls itself.

#ifndef VERSION_H
#define VERSION_H

#define FIRMWARE_VERSION "0.1.0"

#endif
