// Package boltcheck checks the pages of a bbolt file. It checks each offset before it follows it, so
// a damaged offset is reported. With bbolt's own check such an offset may crash the process.
package boltcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/bbolt"
)

// A bbolt file is a sequence of pages of equal size. The pages contain a tree of nodes. A node uses
// one page or several consecutive pages. It begins with a header of 16 bytes: its page number (8
// bytes), its kind (2 bytes), the number of its elements (2 bytes) and the number of its pages after
// the first (4 bytes). The header is followed by the table of elements, each of 16 bytes, and then
// by the keys and values of the elements, without gaps. Numbers are in the byte order of the machine.
const (
	nodeHeader  = 16         // size of the header, in bytes
	nodeElement = 16         // size of an element, in bytes
	metaRoot    = 32         // offset in the meta page: page number of the root of the tree
	metaFree    = 48         // offset in the meta page: page number of the list of free pages
	metaEnd     = 56         // offset in the meta page: number of pages in the file
	noFreeList  = ^uint64(0) // value at metaFree if the file has no list of free pages

	branchNode = 0x01 // kind of a node whose elements point to other nodes
	leafNode   = 0x02 // kind of a node whose elements are records or buckets
	freeNode   = 0x10 // kind of the node that lists the free pages
	bucketFlag = 0x01 // flag of an element of a leaf node that is a bucket
)

// maxLevels is the number of levels that a tree may have. Each level has at least twice as many keys
// as the level above, so an undamaged file has far fewer levels.
const maxLevels = 64

// Progress receives the number of pages that were checked so far, and the number of all pages. An
// error that it returns ends the check.
type Progress func(done, total int64) error

// Check checks the pages that are visible to tx and calls report for each problem. It calls progress
// for each node, unless that is nil, and returns the error of progress or nil. file must be the
// file of tx. Check reads the pages from file and not from the memory map of bbolt, because an offset
// outside the map would end the process. Other transactions may write during the check, because they
// do not change the pages that tx uses.
func Check(tx *bbolt.Tx, file io.ReaderAt, report func(problem string), progress Progress) error {
	if file == nil {
		report("the transaction has no file to check")
		return nil
	}
	var first metaPage
	if _, err := tx.WriteTo(&first); first == nil {
		report(fmt.Sprintf("page 0: %v", err))
		return nil
	}
	end := number(first[metaEnd:])
	if _, err := file.ReadAt(make([]byte, 1), tx.Size()-1); err != nil {
		report(fmt.Sprintf("the file ends before its %d pages do: %v", end, err))
		return nil
	}
	w := &pageWalk{file: file, size: uint64(len(first)), uses: make([]pageUse, end), report: report, progress: progress}
	w.uses[0], w.uses[1] = pageUsed, pageUsed
	listed := number(first[metaFree:])
	if listed != noFreeList {
		w.free(listed)
	}
	w.tree(treePlace{page: number(first[metaRoot:]), top: true})
	if w.stopped != nil || w.found || listed == noFreeList {
		// Pages below a damaged node were not visited, or free pages are not listed. In both cases a
		// page without a known use is not a problem.
		return w.stopped
	}
	for page, use := range w.uses {
		if use == pageUnknown {
			w.problem(uint64(page), "is neither in use nor free")
		}
	}
	return nil
}

// FreeBytes returns the size of the pages that are free for new data, as tx sees the file. It returns 0 if the file has no
// list of free pages, and an error if the list cannot be read. file must be the file of tx.
func FreeBytes(tx *bbolt.Tx, file io.ReaderAt) (int64, error) {
	var first metaPage
	if _, err := tx.WriteTo(&first); first == nil {
		return 0, err
	}
	listed := number(first[metaFree:])
	if listed == noFreeList {
		return 0, nil
	}
	head := make([]byte, nodeHeader+8)
	if _, err := file.ReadAt(head, int64(listed)*int64(len(first))); err != nil {
		return 0, err
	}
	if kind := nodeKind(head); number(head) != listed || kind != freeNode {
		return 0, fmt.Errorf("page %d is of the kind %#x and is not the list of free pages", listed, kind)
	}
	count, _ := freeCount(head)
	return int64(count) * int64(len(first)), nil
}

// freeCount returns the number of pages in a list of free pages, and where the list begins in its node.
func freeCount(node []byte) (count, from uint64) {
	if count = uint64(nodeCount(node)); count < 0xffff {
		return count, nodeHeader
	}
	return number(node[nodeHeader:]), nodeHeader + 8 // the count is too large for the header, so it is the first entry of the list
}

// metaPage is a writer for tx.WriteTo. It stores the first page that is written to it, and then stops
// the copy with an error. That page describes the file as the transaction sees it.
type metaPage []byte

func (p *metaPage) Write(page []byte) (int, error) {
	if *p != nil {
		return 0, errors.New("the copy was stopped after the first page")
	}
	*p = bytes.Clone(page)
	return len(page), nil
}

// number returns the number in the first 8 bytes of b.
func number(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// pageUse is the use of a page that the check has found so far.
type pageUse byte

const (
	pageUnknown pageUse = iota
	pageUsed
	pageFree
)

// pageWalk is one check of the pages of a file.
type pageWalk struct {
	file   io.ReaderAt
	size   uint64    // size of a page, in bytes
	uses   []pageUse // use of each page, by page number
	report func(problem string)
	found  bool // true if a problem was reported

	progress Progress          // nil if nobody wants to know
	claimed  int64             // number of pages with a known use so far
	stopped  error             // the error of progress; nil: the check goes on
	levels   [maxLevels][]byte // buffer for the current node of each level
}

// treePlace is the place of a node in a tree.
type treePlace struct {
	page     uint64
	depth    int    // number of levels above the node
	from, to []byte // all keys of the node must be >= from and < to; nil means no bound
	top      bool   // true in the tree whose elements are the buckets of the file
}

// problem reports a problem of a page. format and args describe it without the page number.
func (w *pageWalk) problem(page uint64, format string, args ...any) {
	w.found = true
	w.report(fmt.Sprintf("page %d ", page) + fmt.Sprintf(format, args...))
}

// claim records the use of count pages, beginning with page. If a page does not exist or already has
// a use, claim reports a problem and returns false.
func (w *pageWalk) claim(page, count uint64, use pageUse) bool {
	if page < 2 || page >= uint64(len(w.uses)) || count > uint64(len(w.uses))-page {
		w.problem(page, "is outside the file of %d pages, or its node of %d pages is", len(w.uses), count)
		return false
	}
	for i := page; i < page+count; i++ {
		if w.uses[i] != pageUnknown {
			w.problem(i, "has two uses")
			return false
		}
		w.uses[i] = use
		w.claimed++
	}
	return true
}

// read returns the first n bytes of the node at page. It reads them into buf if buf is large enough,
// or else into new memory.
func (w *pageWalk) read(page, n uint64, buf []byte) ([]byte, error) {
	if uint64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	_, err := w.file.ReadAt(buf[:n], int64(page*w.size))
	return buf[:n], err
}

// head claims all pages of the node at page. It returns the contents of the first page and the total
// size of all pages, in bytes. If the pages cannot be claimed or read, it reports a problem and
// returns nil. It uses buf as read does.
func (w *pageWalk) head(page uint64, buf []byte) (node []byte, size uint64) {
	if !w.claim(page, 1, pageUsed) {
		return nil, 0
	}
	node, err := w.read(page, w.size, buf)
	if err != nil {
		w.problem(page, "cannot be read: %v", err)
		return nil, 0
	}
	if stored := number(node); stored != page {
		w.problem(page, "has the number of page %d in its header", stored)
		return nil, 0
	}
	more := uint64(binary.NativeEndian.Uint32(node[12:]))
	if more > 0 && !w.claim(page+1, more, pageUsed) {
		return nil, 0
	}
	return node, (1 + more) * w.size
}

// free checks the list of free pages, which begins at page.
func (w *pageWalk) free(page uint64) {
	node, size := w.head(page, nil)
	if node == nil {
		return
	}
	if kind := nodeKind(node); kind != freeNode {
		w.problem(page, "is of the kind %#x and is not the list of free pages", kind)
		return
	}
	count, skip := freeCount(node)
	if count > (size-skip)/8 {
		w.problem(page, "lists %d free pages, more than it has space for", count)
		return
	}
	node, err := w.read(page, skip+8*count, node)
	if err != nil {
		w.problem(page, "cannot be read: %v", err)
		return
	}
	for at := skip; at < skip+8*count; at += 8 {
		w.claim(number(node[at:]), 1, pageFree)
	}
}

// tree checks the node at a place and all nodes below it.
func (w *pageWalk) tree(at treePlace) {
	if at.depth == maxLevels {
		w.problem(at.page, "is at a level deeper than a tree can have")
		return
	}
	if w.progress != nil && w.stopped == nil {
		w.stopped = w.progress(w.claimed, int64(len(w.uses)))
	}
	if w.stopped != nil {
		return
	}
	node := w.node(at)
	if node == nil {
		return
	}
	w.order(at, node)
	branch, count := nodeKind(node) == branchNode, nodeCount(node)
	for i := range count {
		if !branch {
			w.leaf(at, node, i)
			continue
		}
		below := treePlace{page: number(node[nodeHeader+nodeElement*i+8:]), depth: at.depth + 1, from: nodeKey(node, i), to: at.to, top: at.top}
		if i+1 < count {
			below.to = nodeKey(node, i+1)
		}
		w.tree(below)
	}
}

// node reads and checks the node at a place in a tree. If the node is damaged, the method reports a
// problem and returns nil. The result is valid until the next call for the same depth.
func (w *pageWalk) node(at treePlace) []byte {
	node, size := w.head(at.page, w.levels[at.depth])
	if node == nil {
		return nil
	}
	kind, count := nodeKind(node), nodeCount(node)
	if kind != branchNode && kind != leafNode || kind == branchNode && count == 0 {
		w.problem(at.page, "is of the kind %#x with %d elements and is not a node of the tree", kind, count)
		return nil
	}
	table := uint64(nodeHeader + nodeElement*count)
	var err error
	if table <= size && table > uint64(len(node)) {
		node, err = w.read(at.page, table, node)
	}
	if end := nodeEnd(node); err == nil && end <= size && end > uint64(len(node)) {
		node, err = w.read(at.page, end, node)
	}
	w.levels[at.depth] = node
	if err == nil {
		err = checkNode(node)
	}
	if err != nil {
		w.problem(at.page, "is damaged: %v", err)
		return nil
	}
	return node
}

// order reports keys of a node that are not in ascending order or outside the bounds of its place.
// checkNode must have found no error in the node.
func (w *pageWalk) order(at treePlace, node []byte) {
	for i := range nodeCount(node) {
		key := nodeKey(node, i)
		switch {
		case i == 0 && bytes.Compare(key, at.from) < 0:
			w.problem(at.page, "has a key before the range of its place in the tree")
		case i > 0 && bytes.Compare(nodeKey(node, i-1), key) >= 0:
			w.problem(at.page, "has a key, number %d, that is not after the previous key", i)
		case at.to != nil && bytes.Compare(key, at.to) >= 0:
			w.problem(at.page, "has a key, number %d, after the range of its place in the tree", i)
		}
	}
}

// leaf checks element i of a leaf node. If at.top is set, the element must be a bucket, and leaf also
// checks the tree of the bucket. Otherwise it must be a record, which refers to no pages. A small
// bucket has no page: the value of its element contains its only node.
func (w *pageWalk) leaf(at treePlace, node []byte, i int) {
	flags := binary.NativeEndian.Uint32(node[nodeHeader+nodeElement*i:])
	if !at.top && flags != 0 || at.top && flags != bucketFlag {
		w.problem(at.page, "has an element, number %d, of the unexpected kind %#x", i, flags)
		return
	}
	if !at.top {
		return
	}
	value := nodeValue(node, i)
	if len(value) < 16 {
		w.problem(at.page, "has a bucket, number %d, of %d bytes", i, len(value))
		return
	}
	below := treePlace{page: number(value), depth: at.depth + 1}
	switch inside := value[16:]; {
	case below.page != 0 && len(inside) == 0:
		w.tree(below)
		return
	case below.page != 0 || len(inside) < nodeHeader || nodeKind(inside) != leafNode:
		w.problem(at.page, "has an element, number %d, that is not a valid bucket", i)
		return
	}
	below.page, value = at.page, value[16:]
	err := checkNode(value)
	if end := nodeEnd(value); err == nil && end != uint64(len(value)) {
		err = fmt.Errorf("it ends at byte %d of %d", end, len(value))
	}
	if err != nil {
		w.problem(at.page, "is damaged in bucket number %d: %v", i, err)
		return
	}
	w.order(below, value)
	for j := range nodeCount(value) {
		w.leaf(below, value, j)
	}
}

func nodeKind(node []byte) int  { return int(binary.NativeEndian.Uint16(node[8:])) }
func nodeCount(node []byte) int { return int(binary.NativeEndian.Uint16(node[10:])) }

// nodeSpans returns three offsets in node for element i: the start of its key, the start of its value,
// which is also the end of its key, and the end of its value. For a branch node, whose elements have
// no values, value and end are equal. The entry of the element in the table must be within node. If
// the node is damaged, the offsets may be outside it.
func nodeSpans(node []byte, i int) (key, value, end uint64) {
	at := nodeHeader + nodeElement*i
	b := node[at:]
	word := func(n int) uint64 { return uint64(binary.NativeEndian.Uint32(b[4*n:])) }
	if nodeKind(node) == branchNode {
		key = uint64(at) + word(0)
		value = key + word(1)
		return key, value, value
	}
	key = uint64(at) + word(1)
	value = key + word(2)
	return key, value, value + word(3)
}

// nodeEnd returns the offset of the end of the last element's value, which may be wrong in a damaged
// node. If node has no elements or contains only a part of the table of elements, nodeEnd returns the
// offset of the end of the table.
func nodeEnd(node []byte) uint64 {
	count := nodeCount(node)
	table := nodeHeader + nodeElement*count
	if count == 0 || table > len(node) {
		return uint64(table)
	}
	_, _, end := nodeSpans(node, count-1)
	return end
}

// checkNode returns an error unless the keys and values of a node follow each other without gaps, no
// key is empty, and all of them are within node.
func checkNode(node []byte) error {
	count := nodeCount(node)
	next := uint64(nodeHeader + nodeElement*count)
	if next > uint64(len(node)) {
		return fmt.Errorf("it has no space for %d elements", count)
	}
	for i := range count {
		key, value, end := nodeSpans(node, i)
		switch {
		case key != next:
			return fmt.Errorf("element %d begins at byte %d and not at %d", i, key, next)
		case key == value:
			return fmt.Errorf("element %d has no key", i)
		case end > uint64(len(node)):
			return fmt.Errorf("element %d ends at byte %d of %d", i, end, len(node))
		}
		next = end
	}
	return nil
}

// nodeKey returns the key of element i of a node without errors (see checkNode). The result shares the
// memory of node.
func nodeKey(node []byte, i int) []byte {
	key, value, _ := nodeSpans(node, i)
	return node[key:value]
}

// nodeValue returns the value of element i of a leaf node without errors (see checkNode). The result
// shares the memory of node.
func nodeValue(node []byte, i int) []byte {
	_, value, end := nodeSpans(node, i)
	return node[value:end]
}
