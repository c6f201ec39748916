// SPDX-License-Identifier: Apache-2.0

//go:build !purego

#include "textflag.h"

// The instructions are those of Intel's "New Instructions Supporting the
// Secure Hash Algorithm" (2013), once for each stream, four rounds of one and
// four of the other by turns: the processor overlaps them.
//
//	AX constants   SI, BX data   DI, DX state   CX blocks left
//	X0 what SHA256RNDS2 takes without a name    X15 byte order
//	first stream: X1, X2 state   X3-X6 message   X7 scratch
//	second:       X8, X9         X10-X13         X14

// LOAD takes 16 bytes of message.
#define LOAD(src, off, m) \
	MOVOU  off(src), m \
	PSHUFB X15, m

// ROUNDS does four rounds with the words of m.
#define ROUNDS(k, m, s0, s1) \
	MOVO        m, X0     \
	PADDD       k(AX), X0 \
	SHA256RNDS2 X0, s0, s1 \
	PSHUFD      $0x0e, X0, X0 \
	SHA256RNDS2 X0, s1, s0

// EXTEND makes the next four words in m0, of which SHA256MSG1 has seen m1.
#define EXTEND(m0, m2, m3, t) \
	MOVO       m3, t     \
	PALIGNR    $4, m2, t \
	PADDD      t, m0     \
	SHA256MSG2 m3, m0

// FIRST does rounds 0-15, of the first words as they are read.
#define FIRST(k, src, off, m, s0, s1) \
	LOAD(src, off, m) \
	ROUNDS(k, m, s0, s1)

// NEXT does four rounds of 16-63: m0 becomes the words, last for the sixteenth time.
#define NEXT(k, m0, m1, m2, m3, t, s0, s1) \
	SHA256MSG1 m1, m0 \
	EXTEND(m0, m2, m3, t) \
	ROUNDS(k, m0, s0, s1)

// IN takes the state from memory to the order that SHA256RNDS2 wants.
#define IN(h, s0, s1, t) \
	MOVOU   (h), s0       \
	MOVOU   16(h), s1     \
	PSHUFD  $0xb1, s0, s0 \
	PSHUFD  $0x1b, s1, s1 \
	MOVO    s0, t         \
	PALIGNR $8, s1, s0    \
	PBLENDW $0xf0, t, s1

// OUT is the way back.
#define OUT(h, s0, s1, t) \
	PSHUFD  $0x1b, s0, s0 \
	PSHUFD  $0xb1, s1, s1 \
	MOVO    s0, t         \
	PBLENDW $0xf0, s1, s0 \
	PALIGNR $8, t, s1     \
	MOVOU   s0, (h)       \
	MOVOU   s1, 16(h)

// func features() uint32
TEXT ·features(SB), NOSPLIT, $0-4
	MOVL $0, ret+0(FP)
	XORL AX, AX
	CPUID
	CMPL AX, $7
	JB   none
	MOVL $7, AX
	XORL CX, CX
	CPUID
	MOVL BX, ret+0(FP)

none:
	RET

// func blocks(h1 *[8]uint32, p1 *byte, h2 *[8]uint32, p2 *byte, n int)
TEXT ·blocks(SB), NOSPLIT, $64-40
	MOVQ  h1+0(FP), DI
	MOVQ  p1+8(FP), SI
	MOVQ  h2+16(FP), DX
	MOVQ  p2+24(FP), BX
	MOVQ  n+32(FP), CX
	TESTQ CX, CX
	JZ    done
	LEAQ  ·k(SB), AX
	MOVOU ·order(SB), X15
	IN(DI, X1, X2, X7)
	IN(DX, X8, X9, X14)

loop:
	MOVOU X1, 0(SP)
	MOVOU X2, 16(SP)
	MOVOU X8, 32(SP)
	MOVOU X9, 48(SP)

	FIRST(0, SI, 0, X3, X1, X2)
	FIRST(0, BX, 0, X10, X8, X9)
	FIRST(16, SI, 16, X4, X1, X2)
	FIRST(16, BX, 16, X11, X8, X9)
	FIRST(32, SI, 32, X5, X1, X2)
	FIRST(32, BX, 32, X12, X8, X9)
	FIRST(48, SI, 48, X6, X1, X2)
	FIRST(48, BX, 48, X13, X8, X9)
	NEXT(64, X3, X4, X5, X6, X7, X1, X2)
	NEXT(64, X10, X11, X12, X13, X14, X8, X9)
	NEXT(80, X4, X5, X6, X3, X7, X1, X2)
	NEXT(80, X11, X12, X13, X10, X14, X8, X9)
	NEXT(96, X5, X6, X3, X4, X7, X1, X2)
	NEXT(96, X12, X13, X10, X11, X14, X8, X9)
	NEXT(112, X6, X3, X4, X5, X7, X1, X2)
	NEXT(112, X13, X10, X11, X12, X14, X8, X9)
	NEXT(128, X3, X4, X5, X6, X7, X1, X2)
	NEXT(128, X10, X11, X12, X13, X14, X8, X9)
	NEXT(144, X4, X5, X6, X3, X7, X1, X2)
	NEXT(144, X11, X12, X13, X10, X14, X8, X9)
	NEXT(160, X5, X6, X3, X4, X7, X1, X2)
	NEXT(160, X12, X13, X10, X11, X14, X8, X9)
	NEXT(176, X6, X3, X4, X5, X7, X1, X2)
	NEXT(176, X13, X10, X11, X12, X14, X8, X9)
	NEXT(192, X3, X4, X5, X6, X7, X1, X2)
	NEXT(192, X10, X11, X12, X13, X14, X8, X9)
	NEXT(208, X4, X5, X6, X3, X7, X1, X2)
	NEXT(208, X11, X12, X13, X10, X14, X8, X9)
	NEXT(224, X5, X6, X3, X4, X7, X1, X2)
	NEXT(224, X12, X13, X10, X11, X14, X8, X9)
	NEXT(240, X6, X3, X4, X5, X7, X1, X2)
	NEXT(240, X13, X10, X11, X12, X14, X8, X9)

	MOVOU 0(SP), X7
	MOVOU 16(SP), X14
	PADDD X7, X1
	PADDD X14, X2
	MOVOU 32(SP), X7
	MOVOU 48(SP), X14
	PADDD X7, X8
	PADDD X14, X9
	ADDQ  $64, SI
	ADDQ  $64, BX
	DECQ  CX
	JNZ   loop

	OUT(DI, X1, X2, X7)
	OUT(DX, X8, X9, X14)

done:
	RET

DATA ·order+0(SB)/8, $0x0405060700010203
DATA ·order+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL ·order(SB), RODATA|NOPTR, $16

DATA ·k+0(SB)/8, $0x71374491428a2f98
DATA ·k+8(SB)/8, $0xe9b5dba5b5c0fbcf
DATA ·k+16(SB)/8, $0x59f111f13956c25b
DATA ·k+24(SB)/8, $0xab1c5ed5923f82a4
DATA ·k+32(SB)/8, $0x12835b01d807aa98
DATA ·k+40(SB)/8, $0x550c7dc3243185be
DATA ·k+48(SB)/8, $0x80deb1fe72be5d74
DATA ·k+56(SB)/8, $0xc19bf1749bdc06a7
DATA ·k+64(SB)/8, $0xefbe4786e49b69c1
DATA ·k+72(SB)/8, $0x240ca1cc0fc19dc6
DATA ·k+80(SB)/8, $0x4a7484aa2de92c6f
DATA ·k+88(SB)/8, $0x76f988da5cb0a9dc
DATA ·k+96(SB)/8, $0xa831c66d983e5152
DATA ·k+104(SB)/8, $0xbf597fc7b00327c8
DATA ·k+112(SB)/8, $0xd5a79147c6e00bf3
DATA ·k+120(SB)/8, $0x1429296706ca6351
DATA ·k+128(SB)/8, $0x2e1b213827b70a85
DATA ·k+136(SB)/8, $0x53380d134d2c6dfc
DATA ·k+144(SB)/8, $0x766a0abb650a7354
DATA ·k+152(SB)/8, $0x92722c8581c2c92e
DATA ·k+160(SB)/8, $0xa81a664ba2bfe8a1
DATA ·k+168(SB)/8, $0xc76c51a3c24b8b70
DATA ·k+176(SB)/8, $0xd6990624d192e819
DATA ·k+184(SB)/8, $0x106aa070f40e3585
DATA ·k+192(SB)/8, $0x1e376c0819a4c116
DATA ·k+200(SB)/8, $0x34b0bcb52748774c
DATA ·k+208(SB)/8, $0x4ed8aa4a391c0cb3
DATA ·k+216(SB)/8, $0x682e6ff35b9cca4f
DATA ·k+224(SB)/8, $0x78a5636f748f82ee
DATA ·k+232(SB)/8, $0x8cc7020884c87814
DATA ·k+240(SB)/8, $0xa4506ceb90befffa
DATA ·k+248(SB)/8, $0xc67178f2bef9a3f7
GLOBL ·k(SB), RODATA|NOPTR, $256
