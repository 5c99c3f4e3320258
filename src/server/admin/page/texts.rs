//! The texts of the pages. One table: what is missing in a language does not compile.

/// Declares each text in both languages.
macro_rules! texts {
    ($($key:ident: $english:literal, $chinese:literal;)*) => {
        /// The texts of a language.
        #[derive(Debug)]
        pub(super) struct Texts {
            $(pub(super) $key: &'static str,)*
        }

        pub(super) static ENGLISH: Texts = Texts { $($key: $english,)* };
        pub(super) static CHINESE: Texts = Texts { $($key: $chinese,)* };

        /// Key, English and Chinese of each.
        #[cfg(test)]
        const ALL: &[(&str, &str, &str)] = &[$((stringify!($key), $english, $chinese),)*];
    };
}

texts! {
    skip: "Skip to content", "跳到正文";
    pages: "Pages", "页面";
    overview: "Overview", "概览";
    images: "Images", "镜像";
    clients: "Clients", "客户端";
    configuration: "Configuration", "配置";
    live: "live", "实时";
    offline: "not live", "未连接";
    copy: "Copy", "复制";
    copied: "Copied", "已复制";

    health: "Health", "状态";
    ok: "ok", "正常";
    degraded: "degraded", "降级";
    draining: "draining", "正在退出";
    up_for: "up for", "已运行";
    hit_ratio: "Hit ratio", "命中率";
    of_pulls: "pulls since the start", "次拉取(自启动以来)";
    saved: "Bytes saved", "节省流量";
    of_bytes: "of what clients got", "(占客户端所得)";
    to_clients: "To clients", "发往客户端";
    from_upstreams: "From upstreams", "来自上游";
    cache: "Cache", "缓存";
    of: "of", "/";
    blobs: "blobs", "个 blob";
    disk_free: "free on the disk", "磁盘可用";
    dedup: "Deduplication", "去重比";
    dedup_of: "of repositories in", "的仓库内容,实占";
    failures: "Not served", "未服务";
    not_found: "not found", "不存在";
    refused: "refused", "被拒绝";
    errors: "errors", "出错";

    over_time: "Over time", "趋势";
    hour: "Last hour", "最近 1 小时";
    week: "Last 7 days", "最近 7 天";
    window: "Period", "时间范围";
    now: "now", "现在";
    at_most: "at most", "最高";
    chart_ratio: "Hit ratio of pulls", "拉取命中率";
    chart_bytes: "Bytes a second: to clients (area), from upstreams (line)", "每秒流量:发往客户端(面)、来自上游(线)";
    chart_cache: "Cache on the disk", "磁盘缓存占用";
    saved_in_window: "saved in this period", "(此时段节省)";
    no_history: "Samples are taken from the start on. Look again in some seconds.", "自启动后开始采样,请稍后再看。";
    no_pulls_in_window: "no pulls in this period", "此时段没有拉取";

    fills: "Fills under way", "进行中的回源";
    no_fills: "Nothing is being fetched.", "当前没有回源。";
    fill_progress: "Progress of the fill", "回源进度";
    repository: "Repository", "仓库";
    digest: "Digest", "摘要";
    progress: "Progress", "进度";
    readers: "Readers", "读者";

    pulls: "Recent pulls", "最近的拉取";
    no_pulls: "No pulls yet.", "还没有拉取。";
    image: "Image", "镜像";
    client: "Client", "客户端";
    started: "Started", "开始";
    duration: "Took", "用时";
    running: "running", "进行中";
    bytes: "Bytes", "字节";
    from_cache: "From the cache", "来自缓存";
    requests: "Requests", "请求数";
    user_agent: "Program", "程序";
    first_seen: "First seen", "首次出现";
    last_seen: "Last seen", "最近出现";

    upstreams: "Upstreams", "上游";
    no_upstreams: "No upstream is configured.", "没有配置上游。";
    upstream: "Upstream", "上游";
    endpoint: "Endpoint", "端点";
    state: "State", "状态";
    up: "up", "可用";
    down: "circuit open", "熔断";
    limited: "rate limited", "限流";
    for_time: "for", "剩余";
    latency: "Latency", "延迟";
    quota: "Pulls left", "剩余配额";
    hits: "Hits", "命中率";
    pull_count: "Pulls", "拉取";
    fetched: "Fetched", "回源量";

    cluster: "Cluster", "集群";
    node: "Node", "节点";
    address: "Address", "地址";
    zone: "Zone", "可用区";
    version: "Version", "版本";
    this_node: "this node", "本节点";
    leaving: "about to leave", "即将离开";
    silent: "does not answer", "无响应";
    node_leaves: "This node is about to leave: it owns nothing any more.", "本节点即将离开,不再负责任何内容。";

    evictions: "Evictions", "淘汰";
    reason: "Reason", "原因";
    since_start: "Since the start", "自启动以来";
    in_window: "In this period", "此时段";
    evicted_size: "to make room", "腾出空间";
    evicted_age: "unused for too long", "太久未用";
    evicted_removed: "removed by an operator", "由管理员删除";
    evicted_damaged: "damaged", "损坏";

    search: "Search", "搜索";
    search_label: "Part of a name, with or without a tag", "名称的一部分,可带标签";
    no_images: "No image is in the cache.", "缓存中没有镜像。";
    none_found: "No image has this in its name.", "没有名称匹配的镜像。";
    platforms: "Platforms", "平台";
    size: "Size", "大小";
    stored: "Stored", "已存";
    last_pull: "Last pull", "上次拉取";
    checked: "Checked", "上次校验";
    pinned: "pinned", "已固定";
    more: "Next page", "下一页";
    first_page: "First page", "第一页";
    just_now: "just now", "刚刚";

    hosted: "Hosted", "托管";
    hosted_off: "Nothing is hosted here: hosted.enabled is not set in the configuration.", "此处没有托管内容:配置中未设置 hosted.enabled。";
    hosted_usage: "Hosted on the disk", "托管占用";
    namespaces: "Namespaces", "命名空间";
    namespace: "Namespace", "命名空间";
    no_namespaces: "There is no namespace: roadstead ns create makes one.", "没有命名空间;用 roadstead ns create 创建。";
    visibility: "Visibility", "可见性";
    public: "public", "公开";
    private: "private", "私有";
    used: "Used", "已用";
    space_quota: "Quota", "配额";
    all_repositories: "All repositories", "所有仓库";
    repositories: "Repositories", "仓库";
    no_repositories: "No repository has this in its name.", "没有名称匹配的仓库。";
    none_yet: "Nothing was found so far: the next page goes on with the search.", "暂未找到,下一页将继续搜索。";
    hosted_search_label: "Part of a repository's name", "仓库名称的一部分";
    tags: "Tags", "标签";
    no_tags: "No tag has this in its name.", "没有名称匹配的标签。";
    tag_search_label: "Part of a tag", "标签的一部分";
    pushed: "Pushed", "推送于";
    pushed_by: "By", "推送者";
    uploads: "Uploads under way", "进行中的上传";
    uploads_note: "begun and not finished", "(已开始,尚未完成)";
    no_uploads: "Nothing is being pushed.", "当前没有上传。";
    uploads_left_off: "not shown here; GET /api/v1/uploads has them all.", "个未在此列出;完整列表见 GET /api/v1/uploads。";
    last_byte: "Last byte", "最后收到数据";
    collector: "Garbage collector's queue", "垃圾回收队列";
    queue_empty: "nothing to look at", "没有待检查内容";
    due_in: "the first is due in", "最早一项到期还有";
    due_now: "the first is due now", "最早一项已到期";
    condemned: "To be collected", "待回收";
    condemned_note: "of blobs that nothing refers to any more", "(不再被引用的 blob)";

    parts: "Contents", "内容";
    kind: "Kind", "类型";
    index: "index", "索引";
    manifest: "manifest", "清单";
    config: "config", "配置";
    layer: "layer", "层";
    presence: "Presence", "是否已存";
    whole: "stored", "完整";
    partial: "partial", "部分";
    absent: "not there", "不在";
    platform: "Platform", "平台";
    shared_with: "Shared with", "共享者";
    shared_unknown: "There are too many repositories to tell now who shares layers.", "仓库太多,暂时无法得出谁共享这些层。";
    nobody_else: "nobody else", "无";
    and_others: "others", "个其他仓库";
    tag_named: "The tag", "标签";
    fresh_until: "Fresh until", "新鲜至";
    stale_until: "Served if the upstream fails until", "上游故障时可用至";
    forever: "for ever", "永远";
    labels: "Labels", "标签(label)";
    created: "Created", "创建于";
    runs: "Runs", "运行";
    as_user: "As", "用户";
    nodes_left_off: "There are more parts than are shown here; roadstead inspect has them all.", "此处未列出全部内容;完整内容见 roadstead inspect。";

    configuration_intro: "The configuration in effect: defaults, file, environment and flags together. Secrets are masked.", "当前生效的配置:默认值、文件、环境变量与参数合并后的结果。密钥已隐藏。";
    not_known_here: "This process was started without a configuration that could be shown.", "此进程没有可显示的配置。";

    clients_seen: "Clients seen", "出现过的客户端";
    no_clients: "No client has been seen yet.", "还没有客户端出现。";
    client_files: "Client configuration", "客户端配置";
    client_intro: "The files that lead a client here, where there are none yet. roadstead client-config writes them, and merges with what is there.", "把客户端指向此镜像站的文件(适用于尚无此文件时)。roadstead client-config 可直接写入并与现有内容合并。";
    server_label: "The address as clients reach it", "客户端访问此镜像站的地址";
    server_hint: "such as https://mirror.example:5000", "例如 https://mirror.example:5000";
    show: "Show", "显示";
    then_run: "Then", "然后执行";
    note: "Note", "说明";

    not_found_page: "There is no such page.", "没有这个页面。";
    error: "Error", "错误";
    back: "Back to the overview", "返回概览";
    read_only: "This page only reads.", "此页面只读。";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn both_languages_say_everything() {
        let keys: BTreeSet<_> = ALL.iter().map(|(key, _, _)| key).collect();
        assert_eq!(keys.len(), ALL.len());
        for (key, english, chinese) in ALL {
            assert!(!english.trim().is_empty() && english.is_ascii(), "{key}");
            let is_chinese = chinese.contains(|c| matches!(c, '\u{4e00}'..='\u{9fff}'));
            assert!(is_chinese || *chinese == "/", "{key}: {chinese}");
        }
        assert_eq!(ENGLISH.overview, "Overview");
        assert_eq!(CHINESE.overview, "概览");
    }
}
