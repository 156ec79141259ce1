// SPDX-License-Identifier: Apache-2.0
// Standard input to standard output in the LZ4 legacy format, but stored: every block is one run of literals.
//
// Takes the place of lz4(1) when build.sh makes the bzImage. The kernel's own decompressor then does nothing but copy,
// eight bytes an instruction. Where kernel mode is emulated that is what makes the difference: seconds in place of a
// minute and more. Arguments are ignored.
//
// Format: lz4_Frame_format.md ("Legacy frame") and lz4_Block_format.md of the LZ4 project.
#include <stdint.h>
#include <stdio.h>

#define MAGIC 0x184c2102u
#define BLOCK_MAX (8u << 20)
#define RUN_MASK 15u // of a token's upper half: more length bytes follow

static uint8_t block[BLOCK_MAX];

static void put_le32(uint32_t value)
{
	for (int i = 0; i < 4; i++)
		putchar((int)(value >> (8 * i) & 255));
}

// The bytes after the token that say how many literals there are beyond RUN_MASK.
static uint32_t extra_bytes(uint32_t literals)
{
	return literals < RUN_MASK ? 0 : (literals - RUN_MASK) / 255 + 1;
}

int main(void)
{
	put_le32(MAGIC);
	for (;;) {
		uint32_t n = (uint32_t)fread(block, 1, BLOCK_MAX, stdin);

		if (n == 0)
			break;
		put_le32(1 + extra_bytes(n) + n);
		putchar((int)((n < RUN_MASK ? n : RUN_MASK) << 4));
		if (n >= RUN_MASK) {
			for (uint32_t i = 1; i < extra_bytes(n); i++)
				putchar(255);
			putchar((int)((n - RUN_MASK) % 255));
		}
		fwrite(block, 1, n, stdout);
	}
	return ferror(stdin) || fflush(stdout) != 0 || ferror(stdout);
}
