package dashboard

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"latchkey/internal/csvtable"
	"latchkey/internal/figures"
	"latchkey/internal/rowcut"
)

// What a row of an import does that has an address or a number of another contact.
const (
	twinSkip   = "skip"
	twinEmail  = "email" // updates the contact with its address
	twinPhone  = "phone" // updates the contact with its number
	twinCreate = "create"
)

// importPage is the data of the page of an import.
type importPage struct {
	Columns   []string
	Sent      importSent
	Choices   []choice // of Sent.Twins
	Charsets  []choice
	Owners    []choice   // to choose from
	Faults    []rowFault // the refused rows
	More      int        // number of refused rows that are not in Faults
	Plan      *importPlan
	Twins     []rowFault // rows with an address or a number of another contact
	MoreTwins int        // number of such rows that are not in Twins
}

// importPlan is what an import would do.
type importPlan struct {
	Separator                              string
	Rows, Created, Updated, Skipped, Wrong int
	Importable                             bool
	Owners                                 string      // the owners of what would be stored
	Heads                                  []namedText // name of each column in the file, and what it means if that differs
	First                                  [][]string  // the cells of the first rows
}

// Stored returns how many contacts the import would create or update.
func (p importPlan) Stored() int { return p.Created + p.Updated }

// rowFault is a row of an import, with what is to be said about it.
type rowFault struct{ Place, Message string }

// maxShownRows is the maximum number of rows that a table of the page of an import has, and firstRows
// that of the rows that are shown with all cells.
const (
	maxShownRows = 200
	firstRows    = 5
)

// importSent is what the form of an import has sent. Data is the CSV as it was chosen or pasted.
type importSent struct {
	Data           []byte
	Twins, Charset string
	Owner          string // of the rows that name none; "" is the default owner
	Import         bool   // import it; otherwise only say what an import would do
}

// Text returns the CSV for the field in which it can be edited, or "" if a browser would send other
// characters back. It would change a lone CR. CRLF makes no difference in a CSV.
func (s importSent) Text() string {
	text := strings.ReplaceAll(string(s.Data), "\r\n", "\n")
	if !utf8.ValidString(text) || strings.ContainsAny(text, "\r\x00") {
		return ""
	}
	return text
}

// Encoded returns the CSV for a hidden field, if Text cannot have it.
func (s importSent) Encoded() string {
	if s.Text() != "" {
		return ""
	}
	return base64.StdEncoding.EncodeToString(s.Data)
}

// readImport reads the form of an import: the chosen file, or if there is none the pasted text.
func readImport(v *pageRequest) (s importSent, fault *Fault) {
	if err := v.R.ParseMultipartForm(maxForm); err != nil {
		return s, &Fault{Status: http.StatusRequestEntityTooLarge, Message: "The form cannot be read. Its size must be at most 1 MiB. Import a larger file with: latchkey contacts import FILE"}
	}
	form := v.R.PostForm
	s = importSent{Twins: form.Get("twins"), Charset: form.Get("charset"), Owner: strings.TrimSpace(form.Get("owner")), Import: form.Get("do") == "import", Data: []byte(strings.ReplaceAll(form.Get("csv"), "\r\n", "\n"))}
	if kept := form.Get("data"); kept != "" {
		data, err := base64.StdEncoding.DecodeString(kept)
		if err != nil {
			return s, invalid("The file was not sent back as it was shown. Choose it again.")
		}
		s.Data = data
	}
	empty := ""
	if file, head, err := v.R.FormFile("file"); err == nil {
		data, err := io.ReadAll(file)
		_ = file.Close()
		switch {
		case err != nil:
			return s, invalid("The file cannot be read.")
		case strings.TrimSpace(string(data)) != "":
			s.Data = data
		case head.Filename != "":
			empty = "The file " + head.Filename + " is empty. "
		}
	}
	if strings.TrimSpace(string(s.Data)) == "" {
		return s, invalid("%sChoose a CSV file or paste its text.", empty)
	}
	if s.Text() == "" && base64.StdEncoding.EncodedLen(len(s.Data)) > maxCarried {
		return s, &Fault{Status: http.StatusRequestEntityTooLarge, Message: "The file is too large for this page. Save it as UTF-8, or import it with: latchkey contacts import FILE"}
	}
	return s, nil
}

// send sends the CSV to the admin endpoint. With dry it only asks what an import would do.
func (s importSent) send(v *pageRequest, dry bool) (map[string]any, *Fault) {
	q, kind := url.Values{}, "text/csv"
	switch s.Twins {
	case twinSkip:
		q.Set("skip_duplicates", "true")
	case twinEmail, twinPhone:
		q.Set("update_by", s.Twins)
	}
	if dry {
		q.Set("dry_run", "true")
	}
	if s.Owner != "" {
		q.Set("owner", s.Owner)
	}
	if s.Charset != "" {
		kind += "; charset=" + s.Charset
	}
	return v.sendAs(http.MethodPost, "/admin/v1/contacts/import?"+q.Encode(), kind, s.Data)
}

// sendParts sends the CSV in parts of at most most rows, each all or nothing, because a cluster takes no more at once. whole
// is the refusal of the whole file. The answer has the sums of the answers to the parts. If a part fails, left has the rows that
// are not imported, and fault says which are.
func (s importSent) sendParts(v *pageRequest, most int, whole *Fault) (left importSent, answer map[string]any, fault *Fault) {
	f, err := rowcut.CSV(s.Data, s.Charset)
	if err != nil {
		return s, nil, whole
	}
	answer = map[string]any{}
	sent, failed, err := f.Send(most, func(from, to int) (int, error) {
		part := s
		part.Data, part.Charset = f.Part(from, to), ""
		said, refused := part.send(v, false)
		if refused != nil {
			return int(numberOf(refused.Fields["max_rows"])), refused
		}
		for _, name := range []string{"count", "updated", "skipped"} {
			answer[name] = json.Number(strconv.Itoa(int(numberOf(answer[name])) + int(numberOf(said[name]))))
		}
		return 0, nil
	})
	if err == nil {
		return s, answer, nil
	}
	fault = faultOf(err)
	if sent == 0 {
		return s, nil, fault
	}
	left = s
	left.Data, left.Charset = f.Part(sent, f.Len()), ""
	fate := "The rows after them are not, and are in the form below."
	if fault.Status >= http.StatusInternalServerError {
		fate = fmt.Sprintf("It is not known whether the next %s are. These and the rows after them are in the form below: look at the contacts before you import them again.", figures.Grouped(failed))
	}
	return left, nil, &Fault{Status: fault.Status, Fields: fault.Fields, Message: fmt.Sprintf("The first %s rows of the file are imported. %s %s", figures.Grouped(sent), fate, fault.Message)}
}

// showImport sends the page. done is a sentence about what would be done, or "".
func showImport(v *pageRequest, page importPage, done string, fault *Fault) {
	page.Columns = Vocabulary().ContactColumns
	page.Choices = chosen(formField{Kind: fieldSelect, Needed: true}, []choice{
		{Value: twinSkip, Label: "is left out"}, {Value: twinEmail, Label: "updates the contact with its email address"},
		{Value: twinPhone, Label: "updates the contact with its number"}, {Value: twinCreate, Label: "creates another contact"},
	}, page.Sent.Twins)
	page.Charsets = chosen(formField{Kind: fieldSelect, Needed: true}, []choice{
		{Label: "UTF-8 or Unicode"}, {Value: "windows-1252", Label: "Western European (Windows-1252)"}, {Value: "windows-1250", Label: "Central European (Windows-1250)"},
		{Value: "windows-1251", Label: "Cyrillic (Windows-1251)"},
	}, page.Sent.Charset)
	page.Owners = ownerChoices(v)
	shown, status := view{Title: "Import contacts", Done: done}, http.StatusOK
	if fault != nil {
		status, shown.Fault = fault.Status, fault.Message
		if fault.Fields != nil {
			page.Faults, page.More = rowFaults(fault.Fields)
		}
	}
	shown.Data = page
	v.show(status, "import", shown)
}

// importContacts shows what an import of the chosen file would do, and imports it once that was
// confirmed.
func importContacts(v *pageRequest) {
	sent, fault := readImport(v)
	if fault != nil {
		showImport(v, importPage{Sent: sent}, "", fault)
		return
	}
	answer, fault := sent.send(v, !sent.Import)
	if fault != nil && fault.Status == http.StatusRequestEntityTooLarge {
		if most := int(numberOf(fault.Fields["max_rows"])); most > 0 {
			sent, answer, fault = sent.sendParts(v, most, fault)
		}
	}
	if fault != nil {
		showImport(v, importPage{Sent: sent}, "", fault)
		return
	}
	if !sent.Import {
		showPlan(v, sent, answer)
		return
	}
	updated, skipped := int(numberOf(answer["updated"])), int(numberOf(answer["skipped"]))
	http.Redirect(v.W, v.R, fmt.Sprintf("/contacts?done=imported-%d-%d-%d", int(numberOf(answer["count"]))-updated, updated, skipped), http.StatusSeeOther)
}

// imported matches the parameter done after an import: how many contacts it created, updated and left
// out.
var imported = regexp.MustCompile(`^imported-(\d{1,9})-(\d{1,9})-(\d{1,9})$`)

// importNote returns the sentence for a value of the parameter done after an import, or "".
func importNote(word string) string {
	m := imported.FindStringSubmatch(word)
	if m == nil {
		return ""
	}
	list := []string{}
	for i, what := range []string{"created", "updated", "left out because they are here already"} {
		if n, _ := strconv.Atoi(m[i+1]); n > 0 || i == 0 {
			list = append(list, figures.Grouped(n)+" "+what)
		}
	}
	return "Imported: " + strings.Join(list, ", ") + "."
}

// showPlan shows the answer to a dry run, with the file in the form again.
func showPlan(v *pageRequest, sent importSent, answer map[string]any) {
	plan := &importPlan{Importable: answer["importable"] == true, Updated: int(numberOf(answer["updated"])), Skipped: int(numberOf(answer["skipped"])), Owners: strings.Join(texts(answer["owner_names"]), ", ")}
	page := importPage{Sent: sent, Plan: plan}
	rows, _ := answer["contacts"].([]any)
	plan.Rows = len(rows)
	for _, r := range rows {
		row, _ := r.(map[string]any)
		if row["result"] != "refused" {
			continue
		}
		if plan.Wrong++; len(page.Faults) < maxShownRows {
			page.Faults = append(page.Faults, rowFault{rowPlace(row), textOf(row["message"])})
		}
	}
	page.More, plan.Created = plan.Wrong-len(page.Faults), plan.Rows-plan.Updated-plan.Skipped-plan.Wrong
	page.addTwins(answer)
	plan.read(sent, answer["csv"])
	if !plan.Importable && plan.Wrong == 0 { // the file as a whole cannot be read
		page.Plan = nil
		showImport(v, page, "", &Fault{Status: http.StatusOK, Message: textOf(answer["message"])})
		return
	}
	showImport(v, page, "", nil)
}

// read sets what the page says about the file. layout is how the admin endpoint has read it.
func (p *importPlan) read(sent importSent, layout any) {
	p.Separator = map[string]string{"comma": "commas", "semicolon": "semicolons", "tab": "tabs"}[textOf(memberOf(map[string]any{"csv": layout}, "csv.separator"))]
	columns, _ := memberOf(map[string]any{"csv": layout}, "csv.columns").([]any)
	for _, c := range columns {
		column, _ := c.(map[string]any)
		head := namedText{Name: textOf(column["name"])}
		if means := textOf(column["column"]); !strings.EqualFold(means, head.Name) {
			head.Value = means
		}
		p.Heads = append(p.Heads, head)
	}
	table, err := csvtable.Read(sent.Data, sent.Charset)
	if err != nil {
		return // the endpoint has said why
	}
	for _, row := range table.Rows[:min(len(table.Rows), firstRows)] {
		if row.Fault == nil {
			p.First = append(p.First, row.Cells)
		}
	}
}

// rowFaults returns the refused rows in an answer of the admin endpoint, and the number of further
// ones. It names the rows in the words of the endpoint's messages.
func rowFaults(answer map[string]any) (faults []rowFault, more int) {
	list, _ := answer["errors"].([]any)
	for _, v := range list {
		row, _ := v.(map[string]any)
		faults = append(faults, rowFault{rowPlace(row), textOf(row["message"])})
	}
	return faults, max(0, int(numberOf(answer["error_count"]))-len(faults))
}

// rowPlace returns the name of a row in an answer, in the words of the endpoint's messages.
func rowPlace(row map[string]any) string {
	place := "row " + textOf(row["row"])
	if line := textOf(row["line"]); line != "" {
		place = fmt.Sprintf("line %s of the file (%s)", line, place)
	}
	return place
}

// addTwins adds the duplicates in an answer of the admin endpoint to the page.
func (p *importPage) addTwins(answer map[string]any) {
	list, _ := answer["duplicates"].([]any)
	for _, v := range list {
		row, _ := v.(map[string]any)
		var other []string
		if id := textOf(row["contact_id"]); id != "" {
			other = append(other, "contact "+id)
		}
		if n := textOf(row["other_row"]); n != "" {
			other = append(other, "row "+n)
		}
		p.Twins = append(p.Twins, rowFault{rowPlace(row), strings.Join(other, ", ")})
	}
	p.MoreTwins = max(0, int(numberOf(answer["duplicate_count"]))-len(list))
}
