package worker

// Listing is what a worker says that it has, if its protocol has words for that.
type Listing struct {
	Nodes        []ListedNode        `json:"nodes"`
	Applications []ListedApplication `json:"applications"`
}

// ListedNode is a node that a worker has registered: by its kind and name it is called.
type ListedNode struct {
	Kind        string `json:"kind"` // connector, batch or custom
	Name        string `json:"name"`
	Application string `json:"application,omitempty"`
}

// ListedApplication is a third party that a worker knows how to talk to.
type ListedApplication struct {
	Key           string `json:"key"`
	Name          string `json:"name"`
	Description   string `json:"description,omitempty"`
	Authorization string `json:"authorization,omitempty"` // basic, oauth, oauth2
	Type          string `json:"type,omitempty"`          // cron, webhook
	Installable   bool   `json:"installable"`
}
