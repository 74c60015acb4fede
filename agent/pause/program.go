package pause

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// base is the address at which the program is loaded.
const base = 0x400000

// program is the whole of a static executable for this machine: it ignores
// SIGCHLD, so that the kernel reaps what is orphaned to it, and sleeps for ever.
// As process 1 of its namespace it gets no signal that it has no handler for,
// but SIGKILL from outside. It is this small because a pod that shares its
// processes would else pay for a whole runtime.
func program(machine elf.Machine) []byte {
	code := amd64Code
	if machine == elf.EM_AARCH64 {
		code = words(arm64Code)
	}
	const headers = 64 + 56
	var b bytes.Buffer
	size := uint64(headers + len(code) + sigactionSize)
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000,
	}
	for _, part := range []any{head, segment, code, [4]uint64{1 /* SIG_IGN */, 0, 0, 0}} {
		_ = binary.Write(&b, binary.LittleEndian, part) // to memory, of fixed sizes: cannot fail
	}
	return b.Bytes()
}

// sigactionSize is the kernel's struct sigaction: handler, flags, restorer, mask.
const sigactionSize = 32

// amd64Code: rt_sigaction(SIGCHLD, &action, 0, 8); for { pause() }. The action lies
// right behind the code.
var amd64Code = []byte{
	0xb8, 13, 0, 0, 0, // mov eax, 13
	0xbf, 17, 0, 0, 0, // mov edi, 17
	0x48, 0x8d, 0x35, 19, 0, 0, 0, // lea rsi, [rip+19]
	0x31, 0xd2, // xor edx, edx
	0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
	0x0f, 0x05, // syscall
	0xb8, 34, 0, 0, 0, // mov eax, 34
	0x0f, 0x05, // syscall
	0xeb, 0xf7, // jmp to mov eax, 34
}

// arm64Code: the same with ppoll(0, 0, 0, 0, 0), as there is no pause.
var arm64Code = []uint32{
	0xd2800220, // mov x0, #17
	0x100001a1, // adr x1, .+52 (the action)
	0xd2800002, // mov x2, #0
	0xd2800103, // mov x3, #8
	0xd28010c8, // mov x8, #134
	0xd4000001, // svc #0
	0xd2800000, // mov x0, #0
	0xd2800001, // mov x1, #0
	0xd2800002, // mov x2, #0
	0xd2800003, // mov x3, #0
	0xd2800004, // mov x4, #0
	0xd2800928, // mov x8, #73
	0xd4000001, // svc #0
	0x17fffff9, // b to mov x0, #0
}

func words(code []uint32) []byte {
	var out []byte
	for _, w := range code {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out
}
